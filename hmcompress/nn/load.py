"""load_model: a compressed file becomes a module that runs, with each layer in the form that is fastest here."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from hmcompress.container import CompressedFile, LayerRow
from hmcompress.errors import NetworkError
from hmcompress.hmatrix.basics.surroundings import undisturbed
from hmcompress.network.model.build import build_network
from hmcompress.network.model.hidden import hidden_places
from hmcompress.network.model.network import Network
from hmcompress.network.model.places import match, tensors_of_module
from hmcompress.nn.choose import Stopwatch
from hmcompress.nn.forms import BATCHES, SLACK, LayerForms, LoadedLayer
from hmcompress.nn.lean import lean
from hmcompress.nn.memory import device_of
from hmcompress.nn.rebuild import RunningForm
from hmcompress.nn.slim import Sizes, slim_module
from hmcompress.settings.config import Settings
from hmcompress.settings.problem_settings import BuiltinNetwork, FactoryNetwork
from hmcompress.settings.rules import check_quick
from hmcompress.work.progress import Progress, silent

_READ_WEIGHTS = (nn.TransformerEncoderLayer,)  # its fast path takes weights: HLinear would expand one at every call
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


@dataclass(frozen=True)
class Loaded:
    """A module that runs, and how each layer of the file stands in it."""

    module: nn.Module
    layers: tuple[LoadedLayer, ...]
    places: dict[str, str]  # of the file's tensors in the module
    sizes: tuple[Sizes, ...] = ()  # of chains of dense layers, where dead neurons were taken out


def load_model(
    file: str | os.PathLike,
    module: nn.Module | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    slack: float = SLACK,
    slim: bool = True,
    progress: Progress = silent,
) -> nn.Module:
    """A module that runs from the compressed form and trains.

    module: the network that the checkpoint belongs to, on any device (meta too); it is filled and returned. Without
    it the network is built from the file's settings (mlp, deeponet, linear). Each nn.Linear becomes an HLinear or a
    LowRankLinear where that is faster than dense at all of `batches`, as measured here and now; such a layer differs
    from the stored one by at most `slack` times its tolerance (relative Frobenius error; 0 keeps every layer as
    stored). `slim` takes dead neurons out of networks that are built here. Raises FormatError, NetworkError.
    """
    return load(file, module, batches=batches, slack=slack, slim=slim, progress=progress).module


@undisturbed
def load(
    file: str | os.PathLike,
    module: nn.Module | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    slack: float = SLACK,
    slim: bool = True,
    progress: Progress = silent,
) -> Loaded:
    """As load_model, with a record of each layer."""
    compressed = CompressedFile.open(file)
    is_ours = module is None
    module, places = _built(compressed) if module is None else (module, _places(compressed, module))
    filler = _Filler(compressed, module, places, LayerForms(compressed, Stopwatch(batches, device_of(module)), slack))
    layers = filler.fill(progress)
    if not is_ours:
        return Loaded(filler.module, layers, places)
    sizes = slim_module(filler.module) if slim else []
    return Loaded(lean(filler.module), layers, places, tuple(sizes))


def _built(compressed: CompressedFile) -> tuple[nn.Module, dict[str, str]]:
    """The network that the settings describe, without memory for the coded layers; where its tensors go."""
    settings = Settings.from_json(compressed.index.info.settings)
    if settings.network is not None and not isinstance(settings.network, BuiltinNetwork):
        raise NetworkError(
            f"{compressed.path} holds a network of your own (factory or torchscript), which has no built-in slim form: "
            "give the module to load_model, or decompress without --slim"
        )
    if settings.network is None:
        raise NetworkError(
            f"{compressed.path} does not say which network it holds: compress with network: mlp, deeponet or linear in "
            "the settings, or give the module to load_model"
        )
    check_quick(settings)
    network = _skeleton(compressed, settings)
    dtype = compressed.index.dtypes[network.layers[0].weight]
    return network.module.to(dtype).requires_grad_(True), network.places


def _skeleton(compressed: CompressedFile, settings: Settings) -> Network:
    tensors: dict[str, Tensor] = {}
    for part in compressed.parts():
        if part.tensors[0] in compressed.layer_of:
            tensors |= {n: torch.empty(compressed.index.shapes[n], device="meta") for n in part.tensors}
        else:
            tensors |= part.load()
    with torch.device("meta"):
        return build_network(settings, {name: compressed.tie(name, tensors) for name in compressed.names})


def _places(compressed: CompressedFile, module: nn.Module) -> dict[str, str]:
    """Where each tensor of the file goes in a module. Raises NetworkError where the module has others."""
    network = Settings.from_json(compressed.index.info.settings).network
    prefixes = network.prefix if isinstance(network, FactoryNetwork) else {}
    shapes = {name: tuple(shape) for name, (_, shape) in compressed.geometry().items()}
    found = match(tensors_of_module(module), shapes, prefixes)
    what, names = ("it lacks", found.missing) if found.missing else ("other shapes:", found.wrong)
    if names:
        raise NetworkError(f"{compressed.path} does not fit the module: {what} {', '.join(names[:4])}")
    return found.places


class _Filler:
    """Fills a module with the tensors of a file, one after the other."""

    def __init__(
        self, compressed: CompressedFile, module: nn.Module, places: Mapping[str, str], forms: LayerForms
    ) -> None:
        self._compressed, self.module, self._places, self._forms = compressed, module, places, forms
        shapes = {name: tuple(shape) for name, (_, shape) in compressed.geometry().items() if name not in places}
        self._hidden = hidden_places(module, shapes)

    def fill(self, progress: Progress) -> tuple[LoadedLayer, ...]:
        layers = []
        parts = list(self._compressed.parts())
        done, total = 0, sum(part.nbytes for part in parts)
        for part in parts:
            row = self._compressed.layer_of.get(part.tensors[0])
            form = None if row is None else self._form(row)
            if row is not None and row.name in self._places:
                layers.append(self._taken(row, form))
            if form is None:
                self._fill_dense(part.load())
            done += part.nbytes
            progress(part.tensors[0], done, total)
        return tuple(layers)

    def _taken(self, row: LayerRow, form: RunningForm | None) -> LoadedLayer:
        """Put a form into the module in place of its nn.Linear, if there is one; the record of the layer."""
        place = self._places[row.name]
        record = self._forms.record(row, place, form)
        if form is not None:
            path = place.rpartition(".")[0]
            linear = _submodule(self.module, path)
            assert isinstance(linear, nn.Linear)
            running = form.module.to(device_of(linear)).train(linear.training)
            for name, p in running.named_parameters():
                p.requires_grad_((linear.bias if name == "bias" else linear.weight).requires_grad)
            if linear.bias is not None and len(row.tensors) == 1:
                running.bias = linear.bias  # the file has it by itself
            self._replace(path, running)
        return record

    def _replace(self, path: str, new: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        if path:
            setattr(_submodule(self.module, parent), name, new)
        else:
            self.module = new

    def _form(self, row: LayerRow) -> RunningForm | None:
        linear = self._linear(row)
        return None if linear is None else self._forms.fastest(row, linear.weight.dtype)

    def _linear(self, row: LayerRow) -> nn.Linear | None:
        """The module's nn.Linear whose weight a layer is; None where none is, or where another cannot stand for it."""
        path, _, name = self._places.get(row.name, "").rpartition(".")
        if name != "weight" or any(name in self._compressed.views_of for name in row.tensors):
            return None
        linear = _submodule(self.module, path)
        if not _is_plain(linear) or _is_shared(self.module, linear):
            return None
        return None if isinstance(_submodule(self.module, path.rpartition(".")[0]), _READ_WEIGHTS) else linear

    def _fill_dense(self, tensors: dict[str, Tensor]) -> None:
        assigned: dict[int, nn.Parameter] = {}
        for name in self._compressed.with_views(tensors):
            if name in self._places:
                _fill(self.module, self._places[name], self._compressed.tie(name, tensors), assigned)
            elif name in self._hidden:
                with torch.no_grad():
                    self._hidden[name].copy_(self._compressed.tie(name, tensors))


def _fill(module: nn.Module, place: str, tensor: Tensor, assigned: dict[int, nn.Parameter]) -> None:
    """Copy a tensor into a module, or put it there where the module has no memory yet."""
    path, _, name = place.rpartition(".")
    owner = _submodule(module, path)
    own = getattr(owner, name)
    if not own.is_meta:
        with torch.no_grad():
            own.copy_(tensor.view_as(own))
        return
    value = tensor.to(own.dtype).view_as(own)  # a bias may be saved as a row
    if isinstance(own, nn.Parameter):
        key = tensor.data_ptr()
        assigned.setdefault(key, nn.Parameter(value, own.requires_grad))
        shared = assigned[key] if assigned[key].shape == value.shape else nn.Parameter(value, own.requires_grad)
        setattr(owner, name, shared)
    else:
        setattr(owner, name, value)


def _submodule(module: nn.Module, path: str) -> Any:
    """As get_submodule, which ScriptModules lack, and which no part is found by that is called as a method is."""
    return reduce(_part, path.split(".") if path else [], module)


def _part(module: nn.Module, name: str) -> Any:
    part = getattr(module, name)
    return part if isinstance(part, nn.Module) else module._modules[name]


def _is_shared(module: nn.Module, linear: nn.Linear) -> bool:
    named = [p for owner in module.modules() for p in owner.parameters(recurse=False)]
    return sum(p is linear.weight for p in named) > 1


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is an nn.Linear and nothing has been hung on it that would be lost with it."""
    if type(module) is not nn.Linear or type(module.weight) is not nn.Parameter or "forward" in vars(module):
        return False
    if set(module._parameters) != {"weight", "bias"} or module._buffers or module._modules:
        return False
    return not any(getattr(module, name, None) for name in _HOOKS)

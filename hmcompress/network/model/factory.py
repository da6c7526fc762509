"""Networks of the user's own code: a factory that returns a module, or a TorchScript archive that runs itself."""

import importlib
import importlib.util
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hmcompress.errors import NetworkError
from hmcompress.layers import CODABLE, FLOATS, is_optimizer_state
from hmcompress.network.model.further_names import by_stored_names, of_whole_modules
from hmcompress.network.model.hidden import hidden_places
from hmcompress.network.model.modules import ELEMENTWISE
from hmcompress.network.model.network import DenseLayer, Network, own_tensors
from hmcompress.network.model.places import fitting_prefix, match, tensors_of_module
from hmcompress.network.model.shelves import shelves_in
from hmcompress.network.model.wrappers import bare
from hmcompress.settings.problem_settings import FactoryNetwork, TorchScriptNetwork

_LEAST_VECTOR = 8  # numbers


def build_foreign(
    kind: FactoryNetwork | TorchScriptNetwork, tensors: Mapping[str, Tensor], source: Path | None = None
) -> Network:
    """The user's module with the checkpoint's tensors in it. Raises NetworkError."""
    if isinstance(kind, TorchScriptNetwork):
        return adopt(_archive(source), tensors, {}, "torchscript", "the archive")
    module = bare(called_factory(kind.factory))
    return adopt(module, tensors, kind.prefix, "factory", kind.factory)


def adopt(
    module: nn.Module, tensors: Mapping[str, Tensor], prefixes: Mapping[str, str], kind: str, what: str
) -> Network:
    """A module filled with a checkpoint's tensors. Raises NetworkError that lists what differs."""
    own = tensors_of_module(module)
    if any(is_lazy(t) for t in own.values()):
        raise NetworkError(f"{what} returns a module with lazy layers: run it once before it is returned")
    found = _places(own, tensors, prefixes, kind, what)
    shapes = {name: tuple(t.shape) for name, t in tensors.items() if name not in found}
    with torch.no_grad():
        for name, place in found.items():
            own[place].copy_(tensors[name])
        for name, hidden in hidden_places(module, shapes).items():
            hidden.copy_(tensors[name])
    module = module.eval()
    for parameter in module.parameters():  # archives have no requires_grad_ of their own
        parameter.requires_grad_(False)
    names = by_stored_names(found, tensors)
    layers = _dense_layers(module, {place: name for name, place in names.items()})
    dense = {name for layer in layers for name in (layer.weight, layer.bias)}
    masks = {place for place, buffer in module.named_buffers(remove_duplicate=False) if _is_mask(buffer)}
    others = [n for n, p in names.items() if n not in dense and p not in masks and _is_codable(tensors[n])]
    shelves = tuple(shelves_in(module, set(own_tensors(module).values())))
    stacks = _stacks(module, layers)
    names = of_whole_modules(names, tensors) | names
    return Network(module, tuple(layers), names, kind, dtype_of(module), tuple(others), stacks=stacks, shelves=shelves)


def _places(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefixes: Mapping[str, str], kind: str, what: str
) -> dict[str, str]:
    """Checkpoint name to module name. Raises NetworkError where they do not fit."""
    found = match(own, {name: tuple(t.shape) for name, t in tensors.items()}, prefixes)
    left = [n for n, t in tensors.items() if n not in found.places and _is_weight(n, t)]
    if found.missing or found.wrong or (left and not found.places):
        wrong = [f"{n} {tuple(tensors[n].shape)} against {tuple(own[found.places[n]].shape)}" for n in found.wrong]
        advice = fitting_prefix(own, tensors) if kind == "factory" else ""
        raise NetworkError(f"{what} does not fit the checkpoint: {_differences(found.missing, wrong, left)}{advice}")
    return found.places


def _is_weight(name: str, t: Tensor) -> bool:
    """Whether a network that lacks a tensor is another one."""
    return t.dtype in FLOATS and t.ndim > 0 and not is_optimizer_state(name)


def _differences(missing: Sequence[str], wrong: Sequence[str], left: Sequence[str]) -> str:
    parts = [("the checkpoint lacks", missing), ("other shapes", wrong), ("the network lacks", left)]
    return "; ".join(f"{text} {', '.join(names[:4])}{' ...' * (len(names) > 4)}" for text, names in parts if names)


def _dense_layers(module: nn.Module, by_place: Mapping[str, str]) -> list[DenseLayer]:
    """Those whose weights the checkpoint holds; by_place: its names by the module's."""
    return [
        DenseLayer(path, by_place[f"{path}.weight"], _coded_bias(child, by_place.get(f"{path}.bias")))
        for path, child in module.named_modules()
        if _is_dense(child) and f"{path}.weight" in by_place
    ]


def _is_dense(module: nn.Module) -> bool:
    """Whether a module is x W^T + b and nothing else; masks and low-rank additions have a forward of their own."""
    if not isinstance(module, nn.Linear) or "forward" in vars(module) or module._forward_hooks:
        return False
    return type(module).forward is nn.Linear.forward and module.weight.is_floating_point()


def _is_codable(t: Tensor) -> bool:
    """Whether a tensor is worth coding: of numbers that are few, most would be the steps."""
    return t.dtype in CODABLE and (t.ndim > 1 or (t.ndim == 1 and t.numel() >= _LEAST_VECTOR))


def _is_mask(buffer: Tensor) -> bool:
    """Whether a buffer is zeros and ones: which weights are there is no matter of precision."""
    return bool(((buffer == 0) | (buffer == 1)).all())


def dtype_of(module: nn.Module) -> torch.dtype:
    """The real dtype of most of a module's parameters."""
    sizes: Counter[torch.dtype] = Counter()
    for p in module.parameters():
        sizes[p.dtype] += p.numel() if p.is_floating_point() else 0
    return max(sizes, key=lambda dtype: sizes[dtype]) if any(sizes.values()) else torch.float32


def _archive(source: Path | None) -> nn.Module:
    try:
        if source is None:
            raise NetworkError("network: torchscript needs the archive itself as the source")
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning):  # torch would like other archives: the user has this one
                warnings.simplefilter("ignore", kind)
            return torch.jit.load(str(source), map_location="cpu")
    except RuntimeError:
        raise NetworkError(f"network: torchscript, but {source} is no TorchScript archive; give a factory") from None


def _stacks(module: nn.Module, layers: Sequence[DenseLayer]) -> tuple[tuple[DenseLayer, ...], ...]:
    """Runs of dense layers within an nn.Sequential with nothing but elementwise modules between them."""
    by_path = {layer.path: layer for layer in layers}
    stacks = []
    for path, child in module.named_modules():
        run: list[DenseLayer] = []
        for name, part in child.named_children() if isinstance(child, nn.Sequential) else ():
            layer = by_path.get(f"{path}.{name}" if path else name)
            if layer is not None:
                run.append(layer)
            elif not isinstance(part, ELEMENTWISE):
                stacks.append(tuple(run))
                run = []
        stacks.append(tuple(run))
    return tuple(stack for stack in stacks if len(stack) > 1)


def _coded_bias(linear: nn.Linear, name: str | None) -> str | None:
    return name if linear.bias is not None and linear.bias.dtype == linear.weight.dtype else None


def called_factory(spec: str) -> nn.Module:
    where, colon, function = spec.rpartition(":")
    if not colon:
        raise NetworkError(f"factory {spec}: give package.module:function or path/to/file.py:function")
    with _found_beside(where):
        factory = getattr(_imported(where), function, None)
        if factory is None or not callable(factory):
            raise NetworkError(f"factory {spec}: {where} has no function {function}")
        try:
            module = factory()
        except (Exception, SystemExit) as error:
            raise NetworkError(f"factory {spec} raises {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise NetworkError(f"factory {spec} returns a {type(module).__name__}, not an nn.Module")
    return module


@contextmanager
def _found_beside(where: str) -> Iterator[None]:
    """Modules beside the named file, or in the working directory, are found too, after all that is installed."""
    folder = str(Path(where).resolve().parent) if where.endswith(".py") else os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _imported(where: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        if not Path(where).is_file():
            raise NetworkError(f"factory: there is no file {where}")
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except NetworkError:
        raise
    except (Exception, SystemExit) as error:  # a script that ends with sys.exit() has not been checked
        raise NetworkError(f"factory: {where} cannot be imported: {type(error).__name__}: {error}") from error

"""From a checkpoint to a network that runs: the built-in kinds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hmcompress.errors import NetworkError
from hmcompress.layers import FLOATS, is_optimizer_state
from hmcompress.network.model.factory import build_foreign
from hmcompress.network.model.further_names import memory
from hmcompress.network.model.modules import Activation, Features, OperatorNetwork, Stack
from hmcompress.network.model.network import DenseLayer, Network
from hmcompress.settings.config import Settings
from hmcompress.settings.patterns import matches
from hmcompress.settings.problem_settings import MLP, DeepONet, DeepONetNetwork, Linear, LinearNetwork, MLPNetwork
from hmcompress.settings.settings_errors import did_you_mean

_DOUBLE_BELOW = 1_000_000  # weights; larger networks are run in float32

Tensors = Mapping[str, Tensor]


def build_network(settings: Settings, tensors: Tensors, source: Path | None = None) -> Network:
    """The network of the settings with the tensors of a checkpoint in it. Raises NetworkError."""
    kind = settings.network
    if isinstance(kind, MLPNetwork):
        stack = _Stack("", kind.mlp, tensors)
        _nothing_left(kind.mlp, stack.used, tensors)
        return _network("mlp", stack.module, [stack.layers], stack.places)
    if isinstance(kind, DeepONetNetwork):
        return _deeponet(kind.deeponet, tensors)
    if isinstance(kind, LinearNetwork):
        return _linear(kind.linear, tensors)
    assert kind is not None
    return build_foreign(kind, tensors, source)


def _network(
    kind: str,
    module: nn.Module,
    stacks: Sequence[Sequence[DenseLayer]],
    places: dict[str, str],
    cartesian: bool = False,
) -> Network:
    weights = sum(p.numel() for p in module.parameters())
    dtype = torch.float64 if weights < _DOUBLE_BELOW else torch.float32
    layers = tuple(layer for stack in stacks for layer in stack)
    widths = tuple(part.width for part in module.modules() if isinstance(part, Stack))
    return Network(
        module.to(dtype).eval(), layers, places, kind, dtype, (), cartesian, tuple(map(tuple, stacks)), widths
    )


class _Stack:
    """One stack of dense layers read from a checkpoint, under a prefix in the module."""

    def __init__(self, prefix: str, settings: MLP, tensors: Tensors) -> None:
        weights = _weights(settings, tensors)
        if not weights:
            given = ", ".join(settings.layers)
            raise NetworkError(f"layers: no weight matrix matches {given}; there are {_few(tensors)}")
        features = _features(settings, tensors)
        weights = _chained(weights, tensors, _first_width(features))
        slopes = _slopes(settings, tensors, len(weights) if settings.activation_after_last else len(weights) - 1)
        biases = [_bias_of(name, tensors) for name in weights]
        linears = [
            filled(tensors[name], None if b is None else tensors[b]) for name, b in zip(weights, biases, strict=True)
        ]
        activations = [Activation(settings.activation, None if slope is None else tensors[slope]) for slope in slopes]
        self.module = Stack(features, linears, activations, settings.activation_after_last)
        self.layers = [
            DenseLayer(f"{prefix}layers.{k}", name, b if b and _is_coded_with(tensors[b], tensors[name]) else None)
            for k, (name, b) in enumerate(zip(weights, biases, strict=True))
        ]
        self.places = {name: f"{prefix}layers.{k}.weight" for k, name in enumerate(weights)}
        self.places |= {b: f"{prefix}layers.{k}.bias" for k, b in enumerate(biases) if b}
        self.places |= {s: f"{prefix}activations.{k}.slope" for k, s in enumerate(slopes) if s}
        self.places |= {name: f"{prefix}features.{part}" for part, name in _named(settings).items() if name}
        self.places = self._further(settings, tensors) | self.places
        self.used = set(self.places)

    def _further(self, settings: MLP, tensors: Tensors) -> dict[str, str]:
        """Further names of the same tensors: of a layer that a module holds in a list as well."""
        places = {memory(tensors[name]): place for name, place in self.places.items()}
        named = (n for n in tensors if n not in self.places and any(matches(p, n) for p in settings.layers))
        return {n: places[shared] for n in named if (shared := memory(tensors[n])) in places}


def _weights(settings: MLP, tensors: Tensors) -> list[str]:
    special = {settings.fourier, settings.input_mean, settings.input_std, *(settings.slopes or ())}
    special |= {_bias_of(name, tensors) for name, t in tensors.items() if t.ndim == 2}  # a bias may be a row
    return [
        name
        for name, t in tensors.items()
        if t.ndim == 2
        and t.dtype in FLOATS
        and name not in special
        and not is_optimizer_state(name)
        and any(matches(pattern, name) for pattern in settings.layers)
    ]


def _is_coded_with(bias: Tensor, weight: Tensor) -> bool:
    """Whether a bias may be coded as a column of its weight."""
    return bias.dtype == weight.dtype and bias.ndim > 0


def _bias_of(weight: str, tensors: Tensors) -> str | None:
    """The bias beside a weight: `...weight` and `...bias`, `W.0` and `b.0`, `kernel` and `bias`."""
    rows = tensors[weight].shape[0]
    for old, new in (("weight", "bias"), ("kernel", "bias"), ("weights", "biases"), ("W", "b"), ("w", "b")):
        head, found, tail = weight.rpartition(old)
        name = head + new + tail
        if found and name in tensors and tensors[name].numel() == rows:
            return name
    return None


def _chained(weights: list[str], tensors: Tensors, first: int | None) -> list[str]:
    """Weights of which each takes what the one before gives: all, or else the first of several names of a tensor."""
    try:
        _check_chain(weights, tensors, first)
    except NetworkError:
        once = list({memory(tensors[name]): name for name in reversed(weights)}.values())[::-1]
        if len(once) == len(weights):
            raise
        return _chained(once, tensors, first)
    return weights


def _check_chain(weights: Sequence[str], tensors: Tensors, first: int | None) -> None:
    width = first
    last = "the Fourier features"
    for name in weights:
        m, n = tensors[name].shape
        if width is not None and n != width:
            raise NetworkError(
                f"{name} takes {n} inputs but {last} gives {width}: a layer is missing or out of order; "
                "name the layers of the network with 'layers:'"
            )
        width, last = m, name


def _first_width(features: Features) -> int | None:
    return None if features.frequencies is None else 2 * features.frequencies.shape[1]


def _features(settings: MLP, tensors: Tensors) -> Features:
    return Features(**{part: None if n is None else _tensor(n, tensors) for part, n in _named(settings).items()})


def _named(settings: MLP) -> dict[str, str | None]:
    """The tensor of each part of Features."""
    return {"mean": settings.input_mean, "std": settings.input_std, "frequencies": settings.fourier}


def _tensor(name: str, tensors: Tensors) -> Tensor:
    if name not in tensors:
        raise NetworkError(
            f"the network names tensor {name}, which the checkpoint does not have: {_near(name, tensors)}"
        )
    return tensors[name].detach().clone()


def _near(name: str, tensors: Tensors) -> str:
    """The tensor that was meant: a part of it, the same one elsewhere, or one of a like name."""
    same = [n for n in tensors if n.startswith(f"{name}.") or n.endswith(f".{name}")]
    return f"did you mean '{same[0]}'?" if same else did_you_mean(name, tensors, f"there are {_few(tensors)}")


def _few(tensors: Tensors) -> str:
    return ", ".join(list(tensors)[:6]) + " ..." * (len(tensors) > 6)


def _slopes(settings: MLP, tensors: Tensors, count: int) -> list[str | None]:
    names = [n for pattern in settings.slopes or () for n in tensors if matches(pattern, n)]
    if settings.slopes and not names:
        raise NetworkError(
            f"slopes: no tensor matches {', '.join(settings.slopes)}: {_near(settings.slopes[0], tensors)}"
        )
    if settings.slopes and len(names) not in (1, count):
        raise NetworkError(f"slopes: {len(names)} tensors match, {count} activations need one each (or one for all)")
    padded: list[str | None] = [*names] if len(names) != 1 else [names[0]] * count
    return padded if names else [None] * count


def filled(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A dense layer with these values, which are not trained."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias.reshape(-1))
    return linear.requires_grad_(False)


def _nothing_left(settings: MLP, used: set[str], tensors: Tensors) -> None:
    """Where the layers were not named, every floating tensor that looks like a part of a network must be used."""
    left = [
        n
        for n, t in tensors.items()
        if n not in used and t.ndim >= 1 and t.dtype in FLOATS and t.numel() > 1 and not is_optimizer_state(n)
    ]
    if left and settings.layers == ("*",):
        raise NetworkError(
            f"mlp does not use {', '.join(left[:5])}{' ...' * (len(left) > 5)} of the checkpoint: name "
            "its layers with 'layers:', or give a factory"
        )


def _deeponet(settings: DeepONet, tensors: Tensors) -> Network:
    branch, trunk = (
        _Stack(f"{part}.", _of_part(part, stack), tensors)
        for part, stack in (("branch", settings.branch), ("trunk", settings.trunk))
    )
    sizes = [tensors[stack.layers[-1].weight].shape[0] for stack in (branch, trunk)]
    if sizes[0] != sizes[1]:
        raise NetworkError(f"branch ends with {sizes[0]} outputs and trunk with {sizes[1]}: they must be equal")
    bias = None if settings.bias is None else _tensor(settings.bias, tensors).reshape(())
    module = OperatorNetwork(branch.module, trunk.module, bias, settings.cartesian)
    stacks, places = [branch.layers, trunk.layers], branch.places | trunk.places
    return _network("deeponet", module, stacks, places, settings.cartesian)


def _of_part(part: str, settings: MLP) -> MLP:
    """Branch and trunk are found by their names where the settings name no layers."""
    return settings.model_copy(update={"layers": (f"*{part}*",)}) if settings.layers == ("*",) else settings


def _linear(settings: Linear, tensors: Tensors) -> Network:
    matrices = [n for n, t in tensors.items() if t.ndim == 2 and t.dtype in FLOATS and not is_optimizer_state(n)]
    if settings.weight is None and len(matrices) != 1:
        raise NetworkError(f"linear: the checkpoint has {len(matrices)} matrices, name one: weight: {matrices[:3]}")
    name = settings.weight or matrices[0]
    weight = _tensor(name, tensors)
    if weight.ndim != 2:
        raise NetworkError(f"linear: {name} has shape {tuple(weight.shape)}, a matrix is needed")
    bias = settings.bias or _bias_of(name, tensors)
    stack = Stack(
        Features(None, None, None), [filled(weight, None if bias is None else _tensor(bias, tensors))], [], False
    )
    coded = bias if bias and _is_coded_with(tensors[bias], weight) else None
    places = {name: "layers.0.weight"} | ({bias: "layers.0.bias"} if bias else {})
    return _network("linear", stack, [[DenseLayer("layers.0", name, coded)]], places)

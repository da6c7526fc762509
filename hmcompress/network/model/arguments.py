"""Which array of points goes to which argument of a network: by name where names agree, else by their order."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmcompress.errors import NetworkError

_OUTPUTS = ("y", "outputs", "targets")  # arrays that are no inputs, unless arguments are called so
_PAIR = ["branch", "trunk"]  # of a DeepONet, in this order


@dataclass(frozen=True)
class Arguments:
    """Names of a module's arguments: of those that may be given by their place, then of those by name alone."""

    names: tuple[str, ...]
    needed: tuple[str, ...]  # that have no default
    placed: int  # so many may be given by their place

    @staticmethod
    def of(module: nn.Module) -> "Arguments":
        """Without names where the module takes any number, or does not say."""
        if isinstance(module, torch.jit.ScriptModule):
            method: Any = module.forward
            schema = [(a.name, a.has_default_value(), a.kwarg_only) for a in method.schema.arguments[1:]]
        else:
            parameters = inspect.signature(module.forward).parameters.values()
            if any(p.kind is p.VAR_POSITIONAL for p in parameters):
                return UNNAMED
            kept = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
            schema = [(p.name, p.default is not p.empty, p.kind is p.KEYWORD_ONLY) for p in kept]
        needed = tuple(name for name, default, _ in schema if not default)
        return Arguments(tuple(name for name, _, _ in schema), needed, sum(not alone for _, _, alone in schema))

    def ordered(self, names: Sequence[str]) -> list[str] | None:
        """These names in the order of the arguments; None where an argument that is needed is not among them, or where
        none is needed and some are no arguments."""
        if not set(self.needed) <= set(names) or not (self.needed or set(names) - {*_OUTPUTS} <= set(self.names)):
            return None
        return [name for name in self.names if name in names] or None

    def by_name(self, names: Sequence[str]) -> tuple[str, ...]:
        """Of some in their order, those that have no place: after an argument that is not given, or of no place at all.

        None of those that are no arguments: these have come in their own order.
        """
        if self.ordered(names) != list(names):
            return ()
        places = self.names[: self.placed]
        first = next((k for k, name in enumerate(names) if places[k : k + 1] != (name,)), len(names))
        return tuple(names[first:])


UNNAMED = Arguments((), (), 0)


def inputs_of(arrays: Mapping[str, np.ndarray], arguments: Arguments, file: str) -> dict[str, np.ndarray]:
    """The arrays of a file that are inputs, in the order of the network's arguments. Raises NetworkError."""
    named = arguments.ordered(list(arrays))
    if named is not None:
        spare = [name for name in arrays if name not in (*named, *_OUTPUTS)]
        if spare:
            raise NetworkError(
                f"{file} holds {', '.join(spare[:4])} beside {', '.join(named)}, which are all arguments of the network"
            )
        return {name: arrays[name] for name in named}
    names = [name for name in arrays if name not in _OUTPUTS] or list(arrays)
    if file.lower().endswith(".safetensors"):
        names = _without_order(names, arguments, file)
    return {name: arrays[name] for name in names}


def _without_order(names: list[str], arguments: Arguments, file: str) -> list[str]:
    """The names of a file that does not keep the order in which they were saved."""
    if len(names) == 1 or sorted(names) == _PAIR:
        return sorted(names)
    numbered = [(int(found.group()), name) for name in names if (found := re.search(r"\d+$", name))]
    if len(numbered) == len(names):
        return [name for _, name in sorted(numbered)]
    wanted = f" ({', '.join(arguments.names)})" if arguments.names else ", or number them"
    raise NetworkError(
        f"{file} keeps no order of its arrays {', '.join(sorted(names)[:6])}: name them as the network's "
        f"arguments{wanted}, or use .npz"
    )


def split_columns(module: nn.Module, arguments: Arguments, names: Sequence[str]) -> None:
    """Let a module whose arguments are named as the coordinates of a box take one tensor (N, d) of all.

    Raises NetworkError where it takes several inputs that are not so named, or is an archive.
    """
    if len(arguments.needed) < 2:
        return
    places = columns_of(arguments, names)

    def split(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(args[0][..., i : i + 1] for i in places) if len(args) == 1 else args

    _check_takes_hooks(module, "give inputs: FILE instead of domain:")
    module.register_forward_pre_hook(split)
    give_by_name(module, arguments, [names[i] for i in places])


def columns_of(arguments: Arguments, names: Sequence[str]) -> list[int]:
    """Of several arguments that are named as the coordinates of a box, which coordinate each takes.

    Raises NetworkError where they are not so named.
    """
    order = arguments.ordered(names)
    if order is None or len(order) != len(names):
        raise NetworkError(
            f"calibration: the network takes {', '.join(arguments.needed)}: name the coordinates "
            f"of domain: so, not {', '.join(names)}, or give inputs: FILE"
        )
    return [list(names).index(name) for name in order]


def give_by_name(module: nn.Module, arguments: Arguments, names: Sequence[str]) -> None:
    """Let a module take tensors in this order though some of these arguments have no place.

    Raises NetworkError where it is an archive, which takes all by their places.
    """
    named = arguments.by_name(names)
    placed = len(names) - len(named)

    def give(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        whole = len(args) == len(names)
        return (args[:placed], given | dict(zip(named, args[placed:], strict=True))) if whole else (args, given)

    if named:
        _check_takes_hooks(module, f"give those before {named[-1]} too")
        module.register_forward_pre_hook(give, with_kwargs=True)


def _check_takes_hooks(module: nn.Module, advice: str) -> None:
    """Raises NetworkError for an archive, whose arguments nothing can change."""
    if isinstance(module, torch.jit.ScriptModule):
        raise NetworkError(f"calibration: a TorchScript archive takes its arguments by their places: {advice}")

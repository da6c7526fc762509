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
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Arguments:
    """Names of the positional arguments of a module's forward; the first `required` have no default."""

    names: tuple[str, ...]
    required: int

    @staticmethod
    def of(module: nn.Module) -> "Arguments":
        """Without names where the module takes any number, or does not say."""
        if isinstance(module, torch.jit.ScriptModule):
            method: Any = module.forward
            given = [(a.name, a.has_default_value()) for a in method.schema.arguments[1:]]
        else:
            parameters = inspect.signature(module.forward).parameters.values()
            if any(p.kind is p.VAR_POSITIONAL for p in parameters):
                return UNNAMED
            given = [(p.name, p.default is not p.empty) for p in parameters if p.kind in _POSITIONAL]
        return Arguments(tuple(name for name, _ in given), sum(not default for _, default in given))

    def ordered(self, names: Sequence[str]) -> list[str] | None:
        """These names in the order of the arguments; None where an argument that is needed is not among them.

        Raises NetworkError where an argument between others is missing.
        """
        if not self.required or not set(self.names[: self.required]) <= set(names):
            return None
        found = [name for name in self.names if name in names]
        missing = [name for name in self.names[: len(found)] if name not in found]
        if missing:
            raise NetworkError(f"inputs: the network's argument {missing[0]} stands before {found[-1]}: give it too")
        return found


UNNAMED = Arguments((), 0)


def inputs_of(arrays: Mapping[str, np.ndarray], arguments: Arguments, file: str) -> list[np.ndarray]:
    """The arrays of a file that are inputs, in the order of the network's arguments. Raises NetworkError."""
    named = arguments.ordered(list(arrays))
    if named is not None:
        spare = [name for name in arrays if name not in (*named, *_OUTPUTS)]
        if spare:
            raise NetworkError(
                f"{file} holds {', '.join(spare[:4])} beside {', '.join(named)}, which are all arguments of the network"
            )
        return [arrays[name] for name in named]
    names = [name for name in arrays if name not in _OUTPUTS] or list(arrays)
    if file.lower().endswith(".safetensors"):
        names = _without_order(names, arguments, file)
    return [arrays[name] for name in names]


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

    Raises NetworkError where it takes several inputs that are not so named.
    """
    if arguments.required < 2:
        return
    order = arguments.ordered(names)
    if order is None or len(order) != len(names):
        raise NetworkError(
            f"calibration: the network takes {', '.join(arguments.names[: arguments.required])}: name the coordinates "
            f"of domain: so, not {', '.join(names)}, or give inputs: FILE"
        )
    places = [list(names).index(name) for name in order]

    def split(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(args[0][..., i : i + 1] for i in places) if len(args) == 1 else args

    module.register_forward_pre_hook(split)

"""What calls and keys of a pickle mean here: nothing foreign is called, and no hash is dear."""

from collections import deque
from typing import Any

import numpy as np
import torch

from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.checkpoint.standins import Constructor, Converted, Global, LeftBehind, StandIn
from hmcompress.errors import SourceError

_MAX_KEY_NODES = 64
_SIZED = (str, bytes, bytearray, tuple, list, dict, set, frozenset, deque)
# Their hashes are cheap: by content of known length, cached (frozenset, whose items were checked), or by identity.
_HASHABLE = (
    str, int, float, complex, bytes, type(None), frozenset, np.generic, torch.dtype, torch.device,
    StandIn, Global, Constructor, Converted, LeftBehind, LazyTensor,
)  # fmt: skip


def check_key(key: object) -> object:
    """`key` where hashing it is cheap and calls nothing foreign. Raises SourceError otherwise.

    A tuple of tuples that share their parts takes exponential time to hash.
    """
    todo, seen = [key], 0
    while todo:
        item = todo.pop()
        seen += 1
        if isinstance(item, tuple) and seen + len(item) <= _MAX_KEY_NODES:
            todo.extend(item)
        elif not isinstance(item, _HASHABLE):
            raise SourceError(f"its pickle has a {type(item).__name__} as a key, which is not supported")
    return key


def size_of(arguments: object) -> int:
    """Items and characters of arguments, and of the containers among them: what a call may copy."""
    items = arguments if isinstance(arguments, tuple) else (arguments,)
    return len(items) + sum(len(item) for item in items if isinstance(item, _SIZED))


def call(target: object, arguments: tuple, keywords: dict | None = None) -> Any:
    """What REDUCE, NEWOBJ, OBJ and INST mean here: our constructor, or a stand-in that remembers the arguments."""
    if isinstance(target, Constructor):
        return _built(target, arguments, keywords or {})
    if not isinstance(target, (Global, StandIn)):
        raise SourceError(f"damaged: its pickle calls a {type(target).__name__}")
    if not isinstance(arguments, tuple):
        raise SourceError("damaged: its pickle calls without arguments")
    made = StandIn(target, arguments)
    if keywords:
        made.states.append(keywords)
    return made


def traced_module(attributes: Any = None, *_: Any) -> StandIn:
    """A module of torch.fx, which pickles as a call with its attributes and the source text of its code."""
    made = StandIn(Global("torch.fx.graph_module", "GraphModule"), ())
    made.states.append(attributes)
    return made


def _built(target: Constructor, arguments: tuple, keywords: dict) -> Any:
    """What a known constructor makes; a plain value in a form that ours does not know is left behind."""
    try:
        return target.build(*arguments, **keywords)
    except (SourceError, TypeError, ValueError, OverflowError):
        if target.holds_tensors:
            raise
        return LeftBehind(f"a {target.name} in an unknown form")

"""What a program has set for all of its calls of torch and numpy must not reach the arithmetic here."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

_SUBNORMAL = 1e-310
P = ParamSpec("P")
R = TypeVar("R")


def undisturbed(function: Callable[P, R]) -> Callable[P, R]:
    """`function` as if it ran alone: new tensors on the CPU, gradients on, no inference mode, no autocast.

    Numbers that are too large or too small for their type are no events: what comes of them is measured.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with usual_torch(), np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return run


@contextmanager
def usual_torch() -> Iterator[None]:
    """Torch as it is before a program sets anything; afterwards as it was."""
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_autocast_enabled("cpu"):
            stack.enter_context(torch.autocast("cpu", enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.backends.mha.get_fastpath_enabled():  # it may compute on nested tensors, which have no shape
            torch.backends.mha.set_fastpath_enabled(False)
            stack.callback(torch.backends.mha.set_fastpath_enabled, True)
        if _SUBNORMAL == 0:  # numbers below 2^-126 count as zero, or those below 2^-1022
            torch.set_flush_denormal(False)
            stack.callback(torch.set_flush_denormal, True)
        yield


def in_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with one thread for linear algebra: a matrix takes many small operations, between which other threads
    wait in a loop, on processors that others need; and results do not depend on how many there are."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            threads = torch.get_num_threads()
            if threads > 1:  # else another call may have set it, and sets it back
                torch.set_num_threads(1)
                stack.callback(torch.set_num_threads, threads)
            if any(library["num_threads"] > 1 for library in _libraries().info()):
                stack.enter_context(_libraries().limit(limits=1))
            return function(*args, **kwargs)

    return run


@cache
def _libraries() -> ThreadpoolController:
    """Those with threads of their own that numpy and scipy have loaded; to look for them takes a millisecond."""
    return ThreadpoolController()

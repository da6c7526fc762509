"""Modules that need torch are imported at first use: it takes longer to load than a wrong option should to be told."""

import contextlib
import gc
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import NoReturn

_COUNTING = {"jaxlib", "onnx", "triton"}  # when the interpreter ends they list on stderr what was not taken apart


def load(name: str) -> ModuleType:
    """Import a module, without looking for garbage meanwhile: a fifth of the time, and all that is made then stays."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if collects:
            gc.enable()


def load_for_good(name: str) -> ModuleType:
    """`load`, for a program of our own: the collector never goes through what loading made, which takes a tenth of a
    second each time. In a program of others what is garbage meanwhile would stay."""
    module = load(name)
    gc.freeze()
    return module


def spin_little() -> None:
    """Before torch is loaded: its threads (GNU OpenMP) wait for each other in a loop for some microseconds, not a
    millisecond. Where others use the processors too, a loop keeps from them the thread that is waited for."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def end(code: int) -> NoReturn:
    """End the program, without taking apart all that torch made, object by object, which takes a while."""
    if _COUNTING & sys.modules.keys():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or its reader has gone
                stream.flush()
        os._exit(code)
    gc.freeze()
    sys.exit(code)

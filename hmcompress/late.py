"""Modules that need torch are imported at first use: it takes longer to load than a wrong option should to be told."""

import gc
from importlib import import_module
from types import ModuleType


def load(name: str) -> ModuleType:
    """Import a module, without looking for garbage meanwhile: a fifth of the time, and all that is made then stays."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if collects:
            gc.enable()

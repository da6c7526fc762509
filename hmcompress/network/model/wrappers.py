"""What programs put around modules to run them faster (compilation, several devices): here the modules inside run.

Compiled code calls no hooks, by which layers are found.
"""

import torch
from torch import nn

COMPILED = "_orig_mod."  # stands in the names of what is inside
_INSIDE = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


def bare(module: nn.Module) -> nn.Module:
    """A module without what is around it or around its children, which it then holds themselves."""
    module = _inside(module)
    if isinstance(module, torch.jit.ScriptModule):
        return module
    if getattr(module, "_compiled_call_impl", None) is not None:
        module._compiled_call_impl = None  # of module.compile()
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = bare(child)
    return module


def without_wrappers(name: str) -> str:
    """The name of a tensor as if nothing had been compiled."""
    return name.replace(COMPILED, "")


def _inside(module: nn.Module) -> nn.Module:
    while type(module).__module__.startswith("torch.") and type(module).__name__ in _INSIDE:
        module = getattr(module, _INSIDE[type(module).__name__])
    return module

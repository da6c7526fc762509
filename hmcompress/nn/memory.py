"""What a module holds in memory, which is what counts on the device, not the bytes of its file."""

import torch
from torch import nn


def resident_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers; memory that several of them share counts once."""
    tensors = [*module.parameters(), *module.buffers()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if not t.is_meta}
    return sum(storages.values())


def device_of(module: nn.Module) -> torch.device:
    """Where a module is, or where one without memory will be."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return torch.device("cpu") if device.type == "meta" else device

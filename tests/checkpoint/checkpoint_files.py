"""Helpers: what a checkpoint gives back, compared with what was saved."""

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmcompress.checkpoint import Checkpoint, open_checkpoint, unpack_nest


def tensors_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors by name in source order, ties as views of their base."""
    stored = {name: entry.load() for name, entry in checkpoint.entries.items()}
    made = {}
    for name in checkpoint.names:
        tie = checkpoint.ties.get(name)
        made[name] = stored[name] if tie is None else tie.of(stored[tie.base])
    return made


def restored(source: Path | Checkpoint) -> Any:
    """The saved object, through JSON and back."""
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    return unpack_nest(json.loads(json.dumps(checkpoint.nest)), tensors_of(checkpoint))


def assert_same(found: Any, wanted: Any, place: str = "") -> None:
    """Equal nests: types of containers, order of keys, shapes, dtypes and values bit for bit."""
    if isinstance(wanted, torch.Tensor):
        assert isinstance(found, torch.Tensor), place
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), place
        assert bits(found) == bits(wanted), place
    elif isinstance(wanted, dict):
        assert isinstance(found, dict), place
        assert list(found) == list(wanted), place
        for key in wanted:
            assert_same(found[key], wanted[key], f"{place}.{key}")
    elif isinstance(wanted, (list, tuple)):
        assert type(found) is type(wanted), place
        assert len(found) == len(wanted), place
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same(one, other, f"{place}.{index}")
    elif isinstance(wanted, np.ndarray):
        assert isinstance(found, np.ndarray), place
        assert found.dtype == wanted.dtype, place
        np.testing.assert_array_equal(found, wanted)
    else:
        assert type(found) is type(wanted), place
        assert found == wanted or (found != found and wanted != wanted), place


def bits(tensor: torch.Tensor) -> bytes:
    """The values' bytes in row-major order."""
    return (
        tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    )


def peak_rss() -> int:
    """The most memory this process has held so far, in bytes (torch's own allocations included)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def small_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "net.0.weight": torch.randn(6, 4, generator=generator),
        "net.0.bias": torch.randn(6, generator=generator),
        "net.2.weight": torch.randn(2, 6, generator=generator, dtype=torch.float64),
    }

"""A source that is written to while it is read gives no file: it would hold parts of two models."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import hmcompress
from hmcompress.errors import SourceError


def saved(path: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    save_file({f"layer.{i}.weight": torch.randn(64, 64, generator=generator) for i in range(4)}, path)
    return path


def replaced(source: Path, other: Path) -> None:
    os.replace(shutil.copy(other, other.with_suffix(".copy")), source)


def rewritten(source: Path, other: Path) -> None:
    source.write_bytes(other.read_bytes())


def appended(source: Path, other: Path) -> None:
    with source.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("change", [replaced, rewritten, appended])
def test_a_source_that_changes_meanwhile_is_told(change: Callable[[Path, Path], None], tmp_path: Path) -> None:
    source, other = saved(tmp_path / "model.safetensors", 0), saved(tmp_path / "other.safetensors", 1)
    os.utime(source, (1, 1))  # long ago: clocks of files are coarse

    def tell(what: str, done: int, total: int) -> None:
        if source.stat().st_mtime == 1:
            change(source, other)

    with pytest.raises(SourceError, match="has changed while it was read; try again when nothing writes to it"):
        hmcompress.compress(source, tmp_path / "file.hmc.safetensors", tol=1e-2, jobs=1, progress=tell)
    assert not (tmp_path / "file.hmc.safetensors").exists()


def test_a_source_that_is_only_read_meanwhile_is_compressed(tmp_path: Path) -> None:
    source = saved(tmp_path / "model.safetensors", 0)
    report = hmcompress.compress(
        source, tmp_path / "file.hmc.safetensors", tol=1e-2, progress=lambda what, done, total: source.read_bytes()
    )
    assert report.passed

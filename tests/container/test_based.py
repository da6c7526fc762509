"""Layers that stand on others come back, and damage is one line."""

import struct
from dataclasses import replace

import pytest
import torch
from container_files import encode, read

from hmcompress.coding.buffer import Writer
from hmcompress.container import CompressedFile, FileInfo, FileWriter, LayerRow
from hmcompress.container.based import Based, combined, read_based
from hmcompress.container.payload import decode_layer, join
from hmcompress.errors import FormatError
from hmcompress.hmatrix import compress_matrix
from hmcompress.hmatrix.codecs import BASED
from hmcompress.nn.rebuild import read as read_form

SHAPE = (40, 32)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or SHAPE), generator=torch.Generator().manual_seed(seed))


def standing(number: int, factor: float = 0.5, rest: torch.Tensor | None = None) -> bytes:
    return Based(number, factor, compress_matrix(noise(1) if rest is None else rest, 1e-3).payload).payload()


def write(path, payload: bytes, first: torch.Tensor | None = None) -> CompressedFile:
    """A file of two layers, the second with this payload."""
    layers = [encode("first", noise(0) if first is None else first), encode("second", noise(1))]
    with FileWriter(path) as writer:
        writer.add(layers[0])
        writer.add(replace(layers[1], payload=payload))
        writer.finish(FileInfo(("first", "second")))
    return CompressedFile.open(path)


def test_payloads_come_back():
    based = Based(300, -0.25, b"rest")
    assert read_based(based.payload()) == based


def test_it_is_a_factor_times_the_other_one_and_the_rest(tmp_path):
    write(tmp_path / "f", standing(0))
    back = read(tmp_path / "f")
    rest = compress_matrix(noise(1), 1e-3).to_dense()
    assert torch.equal(back["second"], combined(back["first"], 0.5, rest, torch.float32))
    assert (back["second"] - (0.5 * back["first"] + rest)).abs().max() < 1e-6


def test_what_is_loaded_is_nobody_elses(tmp_path):
    file = write(tmp_path / "f", standing(0))
    expected = read(tmp_path / "f")
    first, second = file.layers
    file.load_layer(second)
    file.load_layer(first)["first"].zero_()
    file.load_layer(second)["second"].zero_()
    assert torch.equal(file.load_layer(second)["second"], expected["second"])


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (standing(1), "stands on another"),
        (standing(2), "not there"),
        (standing(0, float("nan")), "no number"),
        (standing(0)[:6], "left"),
        (standing(0)[:10], "empty"),
        (bytes([BASED]), "left"),
        (Writer().raw(bytes([BASED])).uint(0).raw(struct.pack("<d", 1.0) + standing(0)).getvalue(), "unknown"),
    ],
)
def test_damage_is_one_line_that_names_the_layer(tmp_path, payload, line):
    file = write(tmp_path / "f", payload)
    with pytest.raises(FormatError, match=f"tensor second: .*{line}"):
        file.load_layer(file.layers[1])


@pytest.mark.parametrize("first", [noise(0, 32, 40), noise(0).double()])
def test_other_shapes_and_types_are_refused(tmp_path, first):
    file = write(tmp_path / "f", standing(0), first)
    with pytest.raises(FormatError, match="stands on first, which has another shape"):
        file.load_layer(file.layers[1])


def test_it_has_no_other_form_that_runs():
    assert read_form(standing(0), SHAPE, torch.float32, False) is None


def test_a_row_names_no_more_than_its_own_tensor(tmp_path):
    file = write(tmp_path / "f", standing(0))
    assert [row.name for row in file.layers] == ["first", "second"] and isinstance(file.layers[1], LayerRow)


def slices(*payloads: bytes) -> list[torch.Tensor]:
    return list(decode_layer(join(payloads), [(len(payloads), *SHAPE)], torch.float32)[0])


def test_slices_stand_on_slices_before_and_behind_them():
    alone = compress_matrix(noise(0), 1e-2)
    rest = compress_matrix(noise(1), 1e-3).to_dense()
    expected = combined(alone.to_dense(), 0.5, rest, torch.float32)
    for back in (slices(alone.payload, standing(0)), slices(standing(1), alone.payload)[::-1]):
        assert torch.equal(back[0], alone.to_dense()) and torch.equal(back[1], expected)


@pytest.mark.parametrize("number", [1, 2, 1 << 40])
def test_slices_that_stand_on_none_are_refused(number):
    with pytest.raises(FormatError, match="a slice stands on one that is not there"):
        slices(compress_matrix(noise(0), 1e-2).payload, standing(number))

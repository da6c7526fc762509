"""Claims about stacks of matrices: a slice that comes again costs two bytes, and damage is refused."""

import pytest
import torch
from torch import Tensor

from hmcompress.commands import encoding
from hmcompress.commands.encoding import encode_layer
from hmcompress.container.payload import decode_layer, join, split
from hmcompress.errors import FormatError
from hmcompress.geometry import View
from hmcompress.hmatrix import compress_matrix
from hmcompress.settings.config import LayerRule


def window_masks(windows: int = 8, side: int = 8) -> Tensor:
    """Attention masks of shifted windows (windows^2, side^2, side^2): -100 between what was not next to each other."""
    place = torch.arange(windows * side)
    part = (place >= (windows - 1) * side).int() + (place >= windows * side - side // 2).int()
    region = (3 * part[:, None] + part).reshape(windows, side, windows, side).transpose(1, 2).reshape(-1, side * side)
    return torch.where(region[:, None] == region[..., None], 0.0, -100.0)


def test_masks_of_shifted_windows_cost_two_bytes_for_each_that_repeats():
    masks = window_masks()
    layer = encode_layer("mask", masks, LayerRule(match="*", tol=1e-3, norm="fro"))
    decoded = decode_layer(layer.payload, [tuple(masks.shape)], masks.dtype)[0]
    assert ((decoded - masks).flatten(1).norm(dim=1) <= 1e-3 * masks.flatten(1).norm(dim=1)).all()
    assert len(layer.payload) < 280


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_slices_that_are_the_same_are_coded_once(dtype, monkeypatch):
    coded = list[torch.Tensor]()
    monkeypatch.setattr(encoding, "compress_matrix", lambda w, **given: coded.append(w) or compress_matrix(w, **given))
    one, two = torch.randn(2, 16, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    stack = torch.stack([one, two, one, one, two])
    layer = encode_layer("w", stack, LayerRule(match="*", tol=1e-2, norm="fro"))
    assert len(coded) == 2
    decoded = decode_layer(layer.payload, [tuple(stack.shape)], dtype)[0]
    assert float((decoded - stack).double().norm() / stack.double().norm()) <= 1e-2
    assert torch.equal(decoded[0], decoded[2]) and torch.equal(decoded[1], decoded[4])


@pytest.mark.parametrize("payloads", [[b"a", b"a", b"bc", b"a", b"bc"], [b"a", b"b"], [b"a"] * 300])
def test_slices_come_back(payloads):
    assert split(join(payloads), len(payloads)) == payloads
    assert len(join(payloads)) <= 3 * len(payloads)


@pytest.mark.parametrize("data", [b"\0\1", b"\1a\0\0", b"\1a\0\2", b"\1a\0", b"\1a\0\1\1"])
def test_a_slice_that_repeats_what_is_not_there_is_a_format_error(data):
    with pytest.raises(FormatError):
        split(data, 2)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_bias_has_memory_of_its_own(rows):
    """Of a layer with one output, too, whose last column is contiguous where it is."""
    matrix = torch.randn(rows, 17, generator=torch.Generator().manual_seed(0))
    weight, bias = decode_layer(compress_matrix(matrix, tol=1e-2).payload, [(rows, 16), (rows,)], matrix.dtype)
    assert (weight.untyped_storage().nbytes(), bias.untyped_storage().nbytes()) == (64 * rows, 4 * rows)
    assert torch.allclose(bias, matrix[:, -1], atol=0.05 * float(matrix.norm()))


def test_a_view_is_that_of_its_base_wherever_this_lies():
    base = torch.arange(12.0)[5:11].reshape(2, 3)
    assert torch.equal(View.whole("base", (2, 3)).of(base), base)
    assert torch.equal(View("base", (3, 2), (1, 3), 0).of(base), base.T)
    assert torch.equal(View("base", (2,), (1,), 4).of(base), base[1, 1:])

"""Claims about stacks of matrices: a slice that comes again costs two bytes, and damage is refused."""

import pytest
import torch
from torch import Tensor

from hmcompress.commands import encoding
from hmcompress.commands.encoding import encode_layer
from hmcompress.container.payload import decode_layer, join, split
from hmcompress.errors import FormatError
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

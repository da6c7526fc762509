"""Layers of zeros and ones: what a mask keeps apart stays apart, at any tolerance."""

import pytest
import torch

import hmcompress
from hmcompress.hmatrix import compress_matrix


def autoregressive(n: int, inputs: int = 5, seed: int = 0) -> torch.Tensor:
    """The mask of a masked autoencoder with degrees in random order (Germain et al. 2015)."""
    degrees = torch.randint(0, inputs, (n,), generator=torch.Generator().manual_seed(seed))
    return (degrees[:, None] >= degrees[None, :]).float()


def round_trip(tmp_path, tensors, **settings):
    torch.save(tensors, tmp_path / "m.pt")
    report = hmcompress.compress(tmp_path / "m.pt", tmp_path / "m.hmc.safetensors", **settings)
    assert hmcompress.verify(tmp_path / "m.hmc.safetensors", against=tmp_path / "m.pt").passed
    return report, hmcompress.load_state_dict(tmp_path / "m.hmc.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("tol", [1e-1, 1e-2])
def test_masks_come_back_bit_for_bit(tmp_path, tol, dtype):
    masks = {"16": autoregressive(16), "50": autoregressive(50), "low": torch.ones(40, 40).tril()}
    masks = {name: mask.to(dtype) for name, mask in masks.items()}
    report, found = round_trip(tmp_path, masks, tol=tol)
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    assert [layer.error for layer in report.layers] == [0, 0, 0]


def test_a_mask_takes_few_bytes(tmp_path):
    mask = autoregressive(256)
    report, found = round_trip(tmp_path, {"mask": mask}, tol=1e-2)
    assert torch.equal(found["mask"], mask) and report.layers[0].stored_bytes < mask.numel() / 8 / 10


def test_stacks_and_kernels_of_masks_are_masks(tmp_path):
    masks = {"stack": torch.stack([autoregressive(32, seed=i) for i in range(3)]), "conv": torch.ones(16, 16, 3, 3)}
    masks["conv"][:, :, 1, 2:] = masks["conv"][:, :, 2] = 0
    _, found = round_trip(tmp_path, masks, tol=1e-1)
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())


def test_what_is_nearly_a_mask_uses_the_tolerance():
    mask = autoregressive(64)
    mask[-1, -1] = 0.4  # no multiple of a step that keeps all bits
    assert 0 < compress_matrix(mask, 1e-2).error <= 1e-2


def test_a_layer_of_zeros_is_no_mask(tmp_path):
    report, found = round_trip(tmp_path, {"w": torch.zeros(64, 64)}, tol=1e-2)
    assert report.layers[0].leaves.zero == 1 and not found["w"].any()

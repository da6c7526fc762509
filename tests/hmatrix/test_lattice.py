"""Claims about weights that take few values by construction."""

import pytest
import torch

from hmcompress.hmatrix import compress_matrix
from hmcompress.hmatrix.patterns import lattice


def clustered(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(700, 512): weights that share `count` values, some of which appear only in the last row."""
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator).to(dtype)
    w = values[torch.randint(0, max(count // 2, 1), (700, 512), generator=generator)]
    w[-1] = values[torch.arange(512) % count]
    return w


@pytest.mark.parametrize(("count", "dtype"), [(3, torch.float32), (400, torch.float32), (200, torch.bfloat16)])
def test_values_that_appear_late_are_in_the_list(count, dtype):
    w = clustered(count, dtype)
    body = lattice.find(w)[0]
    assert len(body) < w.numel() * w.element_size() / 2
    assert torch.equal(lattice.decode(body, tuple(w.shape), dtype).to_dense(), w)


def test_a_list_that_grows_too_long_is_given_up():
    w = torch.zeros(700, 512)
    w[-20:] = torch.randn(20, 512, generator=torch.Generator().manual_seed(0))
    assert not lattice.find(w)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_noise_is_not_sorted_to_see_that_it_is_no_lattice(dtype, monkeypatch):
    sizes, unique = [], torch.unique
    monkeypatch.setattr(torch, "unique", lambda x, **how: sizes.append(x.numel()) or unique(x, **how))
    w = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert not lattice.find(w)
    assert sum(sizes) < w.numel() / 16


def test_a_clustered_layer_comes_back_exactly():
    w = clustered(16)
    found = compress_matrix(w, 1e-4)
    assert found.error == 0 and found.nbytes < w.numel() * 4.2 / 8 + 200


def test_every_row_of_a_large_layer_has_its_own_step():
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-127, 128, (1500, 512), generator=generator) * torch.rand(1500, 1, generator=generator)
    body = lattice.find(w)[0]
    assert len(body) < 1.1 * w.numel()
    assert torch.equal(lattice.decode(body, tuple(w.shape), w.dtype).to_dense(), w)

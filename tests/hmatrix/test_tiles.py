"""Claims about Kronecker products: they are found, and cost what their factors cost."""

import numpy as np
import pytest
import torch
from hmatrix_matrices import noise

from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.codecs import TILED
from hmcompress.hmatrix.patterns.tiles import find_tile, from_tiles, to_tiles


def product(m: int, n: int, a: int, b: int, terms: int = 1, left: float = 0.0) -> torch.Tensor:
    """A sum of Kronecker products of noise (m, n) and (a, b), and noise of a relative size."""
    w = sum(np.kron(noise(m, n, 2 * k), noise(a, b, 2 * k + 1)) for k in range(terms))
    return torch.from_numpy(w + left * noise(m * a, n * b, 99) * np.sqrt(terms)).float()


@pytest.mark.parametrize("tile", [(4, 6), (12, 30), (1, 5), (24, 1)])
def test_tiles_go_back_to_their_places(tile):
    w = torch.from_numpy(noise(24, 30))
    assert torch.equal(from_tiles(to_tiles(w, tile), (24, 30), tile), w)
    assert torch.equal(to_tiles(w, tile)[0], w[: tile[0], : tile[1]].reshape(-1))


@pytest.mark.parametrize("shape", [(16, 16, 12, 12), (12, 24, 10, 10), (24, 12, 16, 16)])
@pytest.mark.parametrize("terms", [1, 3])
def test_a_product_is_of_low_rank_by_the_tile_that_is_found_and_noise_by_none(shape, terms):
    w = product(*shape, terms, 0.03)
    energy = torch.linalg.svdvals(to_tiles(w, find_tile(w))) ** 2
    assert energy[3:].sum() < 2e-3 * energy.sum()
    assert find_tile(torch.from_numpy(noise(*w.shape))) is None


@pytest.mark.parametrize("norm", ["fro", "max"])
@pytest.mark.parametrize("tol", [1e-1, 1e-3])
def test_a_product_costs_about_what_its_factors_cost(tol, norm):
    w = product(16, 16, 12, 12)
    h = compress_matrix(w, tol, norm)
    decoded = HMatrix.from_payload(h.payload, h.shape, h.dtype).to_dense()
    order = 2 if norm == "fro" else np.inf
    size, error = (float(torch.linalg.vector_norm(x.double(), order)) for x in (w, decoded - w))
    assert error <= tol * size * (1 + 1e-6)
    assert h.payload[0] == TILED and 8 * h.nbytes < (16**2 + 12**2) * (np.log2(1 / tol) + 5) + 1000


def test_with_noise_the_noise_is_what_costs():
    h = compress_matrix(product(16, 16, 12, 12, 1, 1e-3), 1e-4)
    assert 8 * h.nbytes / (16 * 12) ** 2 < np.log2(10) + 0.2546 + 0.35  # the factors take 0.2 of it


def test_tiles_that_do_not_fit_or_nest_are_a_format_error():
    h = compress_matrix(product(16, 16, 12, 12), 1e-2)
    for payload, message in (
        (h.payload[:1] + b"\5" + h.payload[2:], "do not fit"),
        (h.payload[:3] + h.payload, "tiles hold tiles"),
    ):
        with pytest.raises(FormatError, match=message):
            HMatrix.from_payload(payload, h.shape, h.dtype).to_dense()

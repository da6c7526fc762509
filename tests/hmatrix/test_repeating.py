"""Claims about integers that repeat anywhere: a general coder finds what trees, bases and scales do not."""

import numpy as np
import pytest
import torch

from hmcompress.coding import general
from hmcompress.coding.general import repeats
from hmcompress.coding.lossless import zstd_compress
from hmcompress.hmatrix import compress_matrix


def pulses() -> np.ndarray:
    """Rows of one pulse that comes again and again, at a rate and from a start of their own."""
    random, t = np.random.default_rng(0), np.arange(512)
    starts, periods = random.integers(0, 100, 256), random.uniform(80, 130, 256)
    phase = (t - starts[:, None]) % periods[:, None]
    return np.exp(-(((phase - 45) / 2.5) ** 2)) - 0.25 * np.exp(-(((phase - 50) / 3) ** 2))


def codebooks() -> np.ndarray:
    """Every eighth of a row is one of the 64 entries of a codebook of its own."""
    random = np.random.default_rng(0)
    books, codes = random.standard_normal((48, 64, 8)), random.integers(0, 64, (768, 48))
    return books[np.arange(48), codes].reshape(768, 384)


def shuffled_copies() -> np.ndarray:
    """The same rows four times, each time with their columns in another order."""
    random = np.random.default_rng(0)
    block = random.standard_normal((128, 512))
    return np.concatenate([block[:, random.permutation(512)] for _ in range(4)])


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("make", [pulses, codebooks, shuffled_copies])
def test_what_repeats_takes_no_more_than_its_integers_by_a_dictionary_coder(make, tol):
    a = make().astype(np.float32)
    h = compress_matrix(torch.from_numpy(a), tol)
    q = np.rint(a / (tol * np.linalg.norm(a) * np.sqrt(12 / a.size))).astype(np.int16)
    plain = min(len(zstd_compress(np.ascontiguousarray(rows), 19)) for rows in (q, q.T))
    assert h.error <= tol and h.nbytes <= 1.02 * plain + 64


@pytest.mark.parametrize("scale", [5, 300, 9000])
def test_noise_does_not_repeat(scale):
    q = np.rint(np.random.default_rng(0).standard_normal((300, 500)) * scale).astype(np.int64)
    assert not repeats(q, q.size * (np.log2(scale) + 2.05) / 8)


@pytest.mark.parametrize("scale", [2, 20])
def test_noise_in_rows_of_many_sizes_goes_through_the_quickest_levels_alone(scale, monkeypatch):
    levels, random = list[int](), np.random.default_rng(0)

    def noted(data, level):
        levels.append(level)
        return zstd_compress(data, level)

    monkeypatch.setattr(general, "zstd_compress", noted)
    sizes = np.exp(0.3 * random.standard_normal((256, 1)) + 0.2 * random.standard_normal(256))
    q = np.rint(scale * sizes * random.standard_normal((256, 256)))
    assert not repeats(q.astype(np.int64), q.size) and levels and max(levels) <= 1


def test_a_looser_tolerance_costs_hardly_more_where_rounding_breaks_a_pattern():
    place = np.stack(np.meshgrid(*[np.linspace(0, 1, 22)] * 2, indexing="ij"), -1).reshape(-1, 2)
    distance = np.sqrt(((place[:, None] - place) ** 2).sum(-1)) + 0.02
    waves = torch.from_numpy(np.cos(40 * distance) / np.sqrt(distance)).float()
    found = [compress_matrix(waves, tol) for tol in (1e-2, 3e-3)]
    assert found[0].error <= 1e-2 and found[0].nbytes < 1.2 * found[1].nbytes

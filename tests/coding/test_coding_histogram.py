"""Claims about integers that no smooth shape fits: gaps and mixtures cost about what they are worth."""

import numpy as np
import pytest

from hmcompress.coding.classes import class_of
from hmcompress.coding.general import histogram_promises
from hmcompress.coding.pool import ANS, BY_ROWS, PCODEC, decode_pool, encode_pool

N = 1 << 15


def integers() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    noise = random.standard_normal(N)
    small = random.random(N) < 0.9
    return {
        "gaps": np.rint(noise * 20).astype(np.int32) * 37,
        "mixture": np.rint(noise * np.where(small, 3, 3000)).astype(np.int32),
        "large": np.rint(noise * np.where(small, 300, 1e7)).astype(np.int64),
    }


def class_for(q: np.ndarray) -> np.ndarray:
    return class_of(np.sqrt(np.mean(np.square(q, dtype=float))))[None]


def entropy(q: np.ndarray) -> float:
    counts = np.unique(q, return_counts=True)[1]
    return float(counts @ np.log2(q.size / counts)) / 8


@pytest.mark.parametrize("width", [None, 256])
@pytest.mark.parametrize("name", integers())
def test_integers_come_back_from_bins_of_their_own(name: str, width: int | None) -> None:
    q = integers()[name]
    data = encode_pool(q, class_for(q), width=width)
    assert data[0] == (PCODEC if width is None else BY_ROWS)
    np.testing.assert_array_equal(decode_pool(data, class_for(q), q.size, width), q)


def test_values_with_gaps_cost_their_entropy() -> None:
    q = integers()["gaps"]
    assert len(encode_pool(q, class_for(q))) < 1.03 * entropy(q)


def test_a_mixture_of_two_scales_costs_what_its_parts_do_and_which_is_which() -> None:
    q = integers()["mixture"]
    gaussian, which = 2.05, -0.9 * np.log2(0.9) - 0.1 * np.log2(0.1)
    bits = gaussian + 0.9 * np.log2(3) + 0.1 * np.log2(3000) + which
    assert 8 * len(encode_pool(q, class_for(q))) / q.size < 1.03 * bits


def test_noise_is_coded_by_its_shape() -> None:
    q = np.rint(np.random.default_rng(0).standard_normal(N) * 30).astype(np.int32)
    data = encode_pool(q, class_of(30.0)[None])
    assert data[0] == ANS and not histogram_promises(q, len(data))

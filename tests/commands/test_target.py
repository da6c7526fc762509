"""The tolerance that reaches a ratio is found in few trials."""

import math

import pytest

from hmcompress.commands.target import CLOSE, tolerance_for_ratio
from hmcompress.errors import BoundError

SOURCE = 4_000_000


def trial(bits_of):
    """A size as a function of the tolerance, and the list of the tolerances that were tried."""
    tried = []

    def size(tol):
        tried.append(tol)
        return int(20_000 + SOURCE / 32 * bits_of(tol))

    return size, tried


CURVES = {
    "noise": lambda tol: math.log2(1 / tol) + 0.25,
    "smooth": lambda tol: 0.05 * math.log2(1 / tol) ** 2,
    "steps": lambda tol: round(math.log2(1 / tol)) + 0.25,
    "flat at the end": lambda tol: min(math.log2(1 / tol), 12),
}


@pytest.mark.parametrize("curve", CURVES, ids=str)
@pytest.mark.parametrize("ratio", [1.5, 3, 4.7, 9, 15])
def test_ratio_is_reached_in_few_trials(curve, ratio):
    size, tried = trial(CURVES[curve])
    tol = tolerance_for_ratio(size, SOURCE, ratio, SOURCE // 4)
    assert len(tried) <= {"noise": 4, "smooth": 9}.get(curve, 14)
    assert size(tol) <= SOURCE / ratio
    if curve in ("noise", "smooth") and tol > 1e-7:
        assert size(tol) * CLOSE >= SOURCE / ratio - 1


def test_ratio_out_of_reach_says_what_is_possible():
    size, _ = trial(CURVES["noise"])
    with pytest.raises(BoundError, match=r"cannot be reached: tol 0.5 gives \d+"):
        tolerance_for_ratio(size, SOURCE, 1000, SOURCE // 4)


def test_ratio_that_the_finest_tolerance_reaches_takes_it():
    size, _ = trial(CURVES["flat at the end"])
    assert tolerance_for_ratio(size, SOURCE, 2, SOURCE // 4) == 1e-7


@pytest.mark.parametrize("weights", [0, 1, 300, 3000])
@pytest.mark.parametrize("ratio", [1.5, 3])
def test_few_weights_of_a_large_file_end_the_search_as_others_do(weights, ratio):
    """The tolerance does not bear on most of the file, which is too large whatever it is."""

    def size(tol):
        return int(0.8 * SOURCE + weights / 8 * math.log2(1 / tol))

    with pytest.raises(BoundError, match=r"cannot be reached: tol 0\.5 gives 1\.2"):
        tolerance_for_ratio(size, SOURCE, ratio, weights)

"""Columns that are smooth on a mesh: what is coded comes back, smooth ones cost few bytes, damage never crashes."""

import contextlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hmcompress.hmatrix.grids.smooth as smooth
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.codecs import SMOOTH
from hmcompress.hmatrix.grids import compact, weighted
from hmcompress.hmatrix.grids.compact import canonical
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.hmatrix.grids.smooth import COSINES, PLAIN, POLYNOMIALS, Layout, finer, layouts
from hmcompress.network.layerwise.coded import Compact, Smooth
from hmcompress.network.layerwise.fields import LastLayer, Metric

GOLDEN = Path(__file__).parent / "golden" / "smooth_1.npz"
LAYOUTS = [
    Layout((24,), (COSINES,)),
    Layout((24,), (POLYNOMIALS,)),
    Layout((2, 12), (PLAIN, COSINES)),
    Layout((4, 6), (POLYNOMIALS, POLYNOMIALS)),
    Layout((2, 3, 4), (PLAIN, COSINES, POLYNOMIALS)),
]
METRIC = Metric.of(np.diag([4.0, 1.0, 0.25]))


def part(layout: Layout, seed: int = 0, rows: int = 7) -> Smooth:
    rng = np.random.default_rng(seed)
    q = np.zeros((24, 3), np.int64)
    q[:rows] = np.rint(9 * rng.standard_normal((rows, 3)))
    return Smooth(layout, canonical(Grid(q, np.zeros(24, np.int64), np.full(3, -10))))


def decoded(coded: Smooth | Compact, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    shape = coded.dense().shape
    return HMatrix.from_payload(coded.payload(False), (shape[0], shape[1]), dtype).to_dense()


@given(st.sampled_from(LAYOUTS), st.integers(0, 99), st.integers(0, 24))
@settings(max_examples=40, deadline=None)
def test_columns_come_back(layout: Layout, seed: int, rows: int) -> None:
    assert torch.allclose(decoded(part(layout, seed, rows)), part(layout, seed, rows).dense(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_error_of_the_coefficients_is_one_of_the_matrix(layout: Layout) -> None:
    coded = part(layout)
    coefficients = layout.forward(layout.inverse(coded.grid.to_dense()))
    assert np.linalg.norm(coded.dense()) == pytest.approx(np.linalg.norm(coefficients))


def test_coefficients_of_low_frequencies_come_first() -> None:
    """So that those of smooth columns are the first ones."""
    x = np.linspace(0, 1, 6)
    field = (1 + x[:, None] + x[:, None] * x).reshape(-1, 1)
    found = np.abs(Layout((6, 6), (POLYNOMIALS, POLYNOMIALS)).forward(field))
    assert found[:5].max() > 0.1 and found[5:].max() < 1e-12  # 1, x, y, and of the second order x y in their middle


def test_meshes_keep_the_order_of_points() -> None:
    assert [*finer((24,))] == [(2, 12), (3, 8), (4, 6), (6, 4)]
    assert (2, 3, 4) in finer((2, 12)) and not [*finer((2, 3, 4))]
    assert all(len(layout.kinds) == 2 for layout in layouts((4, 6)))
    assert all(POLYNOMIALS not in layout.kinds for layout in layouts((2, 5000)))


def smooth_field(columns: int = 3) -> np.ndarray:
    x = np.linspace(0, 1, 24)
    return np.stack([np.exp(-((x[:, None] - 0.2 * k) ** 2) - x * k).reshape(-1) for k in range(columns)], 1)


def test_the_mesh_of_a_field_is_found() -> None:
    field = LastLayer(smooth_field(), METRIC, 1e-6, 0.0)
    assert field.best_layouts()[0].sizes == (24, 24)


def test_a_smooth_layer_takes_a_fraction_of_a_plain_one_at_less_error() -> None:
    wanted = LastLayer(smooth_field(), METRIC, 1e-6, 0.1)
    layout = wanted.best_layouts()[0]
    (few, _, error), (plain, _, most) = wanted.grid(layout), wanted.grid(None)
    assert error <= most
    found, other = Smooth(layout, canonical(few)), Compact(canonical(plain))
    assert 10 * len(found.payload(False)) < len(other.payload(False))
    change = (found.dense().numpy() - wanted.w) * [2.0, 1.0, 0.5]
    assert np.square(change).sum() == pytest.approx(error)


def test_noise_stays_plain() -> None:
    wanted = LastLayer(np.random.default_rng(0).standard_normal((96, 3)), METRIC, 1e-6, 0.1)
    costs = [wanted.cost(*wanted.grid(layout)[1:]) for layout in (None, *wanted.best_layouts())]
    assert min(costs[1:]) > 0.95 * costs[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_forms_of_coefficients_come_back(layout: Layout) -> None:
    grid, shape = part(layout).grid, (24, 3)
    for form, data in smooth._coded(grid, False):
        found = (compact, weighted)[form].decode(data, shape, torch.float64).to_dense()
        assert np.array_equal(found.numpy(), grid.to_dense())
    assert part(layout).payload(False)[1:] in [smooth._joined(layout, *coded) for coded in smooth._coded(grid, False)]


def test_many_coefficients_are_coded_as_other_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smooth, "FEW", 0)
    assert part(LAYOUTS[2]).payload(False)[1] >= 81
    assert torch.equal(decoded(part(LAYOUTS[2])), part(LAYOUTS[2]).dense())


def test_a_stored_payload_still_decodes() -> None:
    with np.load(GOLDEN) as stored:
        for k in (*range(len(LAYOUTS)), "many"):
            values = stored[f"{k}.decoded"]
            matrix = HMatrix.from_payload(stored[f"{k}.payload"].tobytes(), values.shape, torch.float32)
            assert np.allclose(matrix.to_dense().numpy(), values, rtol=0, atol=1e-6 * np.abs(values).max())


@given(st.binary(max_size=60), st.integers(0, 90))
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_never_crash(data: bytes, m: int) -> None:
    with contextlib.suppress(FormatError):
        HMatrix.from_payload(bytes([SMOOTH]) + data, (m, 3), torch.float32).to_dense()


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        (bytes([27, 5]), 24, "a mesh of 5 lines cannot have 24 points"),
        (bytes([27, 0]), 24, "a mesh of 0 lines"),
        (bytes([162, 1]), 24, "at most 161"),
        (bytes([2]), 4097, "polynomials at 4097 points, at most 4096"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(head: bytes, rows: int, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        HMatrix.from_payload(bytes([SMOOTH]) + head, (rows, 3), torch.float32)


def write_golden() -> None:
    """Frozen once its format version is released."""
    stored = {}
    for k, layout in enumerate(LAYOUTS):
        stored[f"{k}.payload"] = np.frombuffer(part(layout, k).payload(False), np.uint8)
        stored[f"{k}.decoded"] = decoded(part(layout, k), torch.float32).numpy()
    with mock.patch.object(smooth, "FEW", 0):
        stored["many.payload"] = np.frombuffer(part(LAYOUTS[2]).payload(False), np.uint8)
        stored["many.decoded"] = decoded(part(LAYOUTS[2]), torch.float32).numpy()
    np.savez_compressed(GOLDEN, **stored)


if __name__ == "__main__":
    write_golden()

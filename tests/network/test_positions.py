"""Operators between points in no order: coordinates are found, what is coded comes back, damage never crashes."""

import contextlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hmcompress
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.codecs import POSITIONS
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.hmatrix.grids.polynomials import count, orders, polynomials, slopes
from hmcompress.hmatrix.grids.positions import Form
from hmcompress.network.layerwise.coded import Positioned
from hmcompress.network.layerwise.low_rank import as_product
from hmcompress.network.layerwise.points import Points, find_points
from hmcompress.network.layerwise.positions import as_positions

GOLDEN = Path(__file__).parent / "golden" / "positions_1.npz"
Array = np.ndarray


def grid(m: int, n: int, seed: int, size: float = 9) -> Grid:
    rng = np.random.default_rng(seed)
    return Grid(np.rint(size * rng.standard_normal((m, n))).astype(np.int64), np.zeros(m, np.int64), np.full(n, -10))


def coded(form: Form, m: int, n: int, seed: int = 0) -> Positioned:
    core = grid(form.count, form.count if form.mirrored else n, seed + 2)
    return Positioned(form, grid(m, form.numbers, seed), grid(1, form.base_count, seed + 1, 30), core)


@given(st.integers(0, 3), st.integers(1, 3), st.booleans(), st.sampled_from([None, 0, 2]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_an_operator_between_points_comes_back(degree, coordinates, mirrored, base_degree, seed):
    part = coded(Form(degree, coordinates, mirrored, base_degree), 96, 96 if mirrored else 80, seed)
    decoded = HMatrix.from_payload(part.payload(False), tuple(part.dense().shape), torch.float64).to_dense()
    assert torch.allclose(decoded, part.dense(), rtol=1e-12, atol=1e-12 * float(part.dense().abs().max()))


def test_a_stored_payload_still_decodes():
    stored = np.load(GOLDEN)
    for name in ("mirrored", "plain"):
        values = stored[f"{name}.decoded"]
        matrix = HMatrix.from_payload(stored[f"{name}.payload"].tobytes(), values.shape, torch.float32)
        assert np.allclose(matrix.to_dense().numpy(), values, rtol=0, atol=1e-6 * np.abs(values).max())


@given(st.binary(max_size=60), st.integers(1, 90))
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_never_crash(data, n):
    with contextlib.suppress(FormatError):
        HMatrix.from_payload(bytes([POSITIONS]) + data, (n, n), torch.float32).to_dense()


def test_a_damaged_payload_is_a_format_error_or_a_matrix_in_little_memory():
    payload, random = coded(Form(3, 2, True, 2), 96, 96).payload(False), np.random.default_rng(0)
    tracemalloc.start()
    with np.errstate(all="ignore"):
        for at in range(len(payload) // 2):
            bad = bytearray(payload)
            bad[at] ^= 1 << int(random.integers(8))
            with contextlib.suppress(FormatError):
                assert HMatrix.from_payload(bytes(bad), (96, 96), torch.float32).to_dense().shape == (96, 96)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ([4 * 3, 0], (96, 96)),  # no coordinates
        ([4 * 24, 4], (96, 96)),  # more functions than rows allow
        ([4 * 2 + 2, 2], (96, 80)),  # on both sides of what is not square
        ([4 * 2 + 1, 2, 24], (96, 96)),  # a base of more numbers than rows allow
        ([4 * 5, 2], (96, 20)),  # more functions than columns
    ],
)
def test_functions_that_do_not_fit_are_one_clear_line(head, shape):
    with pytest.raises(FormatError, match="do not fit"):
        HMatrix.from_payload(bytes([POSITIONS, *head, 0, 0]), shape, torch.float32)


def test_polynomials_are_as_many_as_counted_and_their_slopes_are_differences():
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (7, 3))
    assert polynomials(x, 4).shape[1] == count(3, 4) == len(orders(3, 4))
    for k, step in enumerate(1e-6 * np.eye(3)):
        moved = (polynomials(x + step, 4) - polynomials(x - step, 4)) / 2e-6
        assert np.allclose(slopes(x, 4)[:, k], moved, atol=1e-6)


def operator(points: Array, kept: int = 12) -> tuple[Array, Array]:
    """The inverse Laplacian of the unit square at points (m, 2), by its modes, and a factor of smooth forcings."""
    k = np.stack(np.meshgrid(np.arange(1, kept), np.arange(1, kept)), -1).reshape(-1, 2)
    modes = 2 * np.prod(np.sin(np.pi * points[:, None] * k), 2) / len(points) ** 0.5
    wave = np.square(k).sum(1)
    return modes / wave @ modes.T, modes / (1 + wave / 9) ** 3


def error(w: Array, part: Positioned, factor: Array) -> float:
    return float(np.linalg.norm((part.dense().numpy() - w) @ factor) / np.linalg.norm(w @ factor))


def moment(factor: Array) -> Array:
    return factor @ factor.T + 1e-4 * np.sum(factor**2) / len(factor) * np.eye(len(factor))


def test_coordinates_of_shuffled_points_are_found():
    points = np.random.default_rng(0).random((400, 2))
    w, factor = operator(points)
    left, sizes, _ = np.linalg.svd(w @ factor)
    found = find_points(left, sizes)
    assert found is not None and found.coordinates == 2 and found.base is not None
    for axis in np.cos(np.pi * points).T:  # each is a function of the two that were found
        f = polynomials(np.sin(np.pi * found.t), 8)
        assert np.linalg.norm(f @ np.linalg.lstsq(f, axis, rcond=None)[0] - axis) < 0.1 * np.linalg.norm(axis)


@pytest.mark.parametrize("make", [lambda r: r.standard_normal((300, 300)), lambda r: np.eye(300)], ids=["noise", "eye"])
def test_noise_has_no_coordinates(make: Callable):
    left, sizes, _ = np.linalg.svd(make(np.random.default_rng(0)))
    assert find_points(left, sizes) is None
    assert as_positions(make(np.random.default_rng(0)), np.eye(300), np.eye(300), 1e-3, 0.0) is None


@pytest.mark.parametrize("level", [3e-4, 6e-5])
def test_random_points_take_far_less_than_a_product(level: float):
    w, factor = operator(np.random.default_rng(0).random((400, 2)))
    size = np.linalg.norm(w @ factor)
    where = as_positions(w, moment(factor), np.eye(400), level * size, 0.0)
    product = as_product(w, moment(factor), np.eye(400), level * size, 0.0)
    assert where is not None and where.form.mirrored
    off = np.linalg.norm((product.dense().numpy() - w) @ factor) / size
    assert error(w, where, factor) < 1.2 * off
    assert len(where.payload(False)) < 0.6 * len(product.payload(False))


def test_the_water_level_is_the_error():
    w, factor = operator(np.random.default_rng(1).random((400, 2)))
    size = np.linalg.norm(w @ factor)
    found = [as_positions(w, moment(factor), np.eye(400), level * size, 0.0) for level in (3e-3, 3e-4)]
    errors, sizes = [error(w, f, factor) for f in found], [len(f.payload(False)) for f in found]
    assert errors[0] > 4 * errors[1]
    assert sizes[0] < sizes[1] < w.size // 8


def test_what_sensors_tell_of_a_field_stands_on_one_side_only():
    rng = np.random.default_rng(2)
    field, sensors = rng.random((500, 2)), rng.random((80, 2))
    w = np.exp(-np.square(field[:, None] - sensors).sum(2) / 0.1)
    factor = np.exp(-np.square(sensors[:, None] - sensors).sum(2) / 0.3)
    size = np.linalg.norm(w @ factor)
    where = as_positions(w, moment(factor), np.eye(500), 3e-4 * size, 0.0)
    product = as_product(w, moment(factor), np.eye(500), 3e-4 * size, 0.0)
    assert where is not None and not where.form.mirrored
    assert error(w, where, factor) < 1e-2
    assert len(where.payload(False)) < 0.7 * len(product.payload(False))


def test_points_on_a_circle_need_no_base():
    angle = 2 * np.pi * np.random.default_rng(3).random(300)
    k = np.arange(1, 20)
    modes = np.concatenate([np.cos(np.outer(angle, k)), np.sin(np.outer(angle, k))], 1)
    left, sizes, _ = np.linalg.svd(modes / np.tile(k, 2) ** 2)
    found = find_points(left, sizes)
    assert isinstance(found, Points) and found.base is None and found.coordinates == 2


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("positions")
    w, factor = operator(np.random.default_rng(4).random((300, 2)))
    w = w + 1e-3 * np.linalg.norm(w) / len(w) * np.random.default_rng(2).standard_normal(w.shape)  # as if learned
    np.savez(folder / "field.npz", mean=np.zeros(len(w)), factor=factor)
    torch.save({"weight": torch.from_numpy(w).float()}, folder / "operator.pt")
    out = folder / "operator.hmc.safetensors"
    inputs = {"gaussian": {"file": str(folder / "field.npz"), "factor": "factor"}, "samples": 512, "held_out": 512}
    options = {"calibration": inputs, "metric": "outputs", "network": {"linear": {}}, "ntk": "off", "effort": "fast"}
    return out, hmcompress.compress(folder / "operator.pt", out, tol=1e-2, **options)


def test_an_operator_on_shuffled_points_is_its_points_and_a_core(shuffled):
    out, report = shuffled
    layer = report.layers[0]
    assert 0.8e-2 < report.network.error <= 1e-2
    assert layer.leaves.low_rank == 1
    assert layer.stored_bytes < 1300  # a product of two factors takes twice as many
    assert hmcompress.load_state_dict(out)["weight"].any()

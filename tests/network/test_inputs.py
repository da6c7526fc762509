"""Points: disjoint folds, right boxes, right covariance, files of every kind."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import save_file
from small_networks import outputs_settings

from hmcompress.errors import NetworkError
from hmcompress.network.model.inputs import Points, Source
from hmcompress.settings.config import load_settings


def source(calibration: dict, cartesian: bool = False) -> Source:
    settings = outputs_settings(calibration=calibration).calibration
    assert settings is not None
    return Source(settings, cartesian, torch.float64)


def plain(settings: dict, cartesian: bool = False) -> Source:
    loaded = load_settings(None, {"metric": "outputs", "network": {"linear": {}}, "calibration": settings})
    assert loaded.calibration is not None
    return Source(loaded.calibration, cartesian, torch.float64)


def test_folds_of_a_box_share_no_point() -> None:
    points = source({"domain": {"x": [-1, 1], "t": [0, 2]}})
    folds = [fold().tensors[0] for fold in (points.calibration, points.held_out, points.fresh, points.guard)]
    rows = [tuple(row) for fold in folds for row in fold.tolist()]
    assert len(set(rows)) == len(rows) == 4 * 512


def test_box_is_filled_and_not_left() -> None:
    x = source({"domain": {"x": [-1, 1], "t": [0, 2]}}).calibration().tensors[0]
    assert x.min(0).values.tolist() >= [-1, 0] and x.max(0).values.tolist() <= [1, 2]
    assert x.std(0)[1] == pytest.approx(2 / 12**0.5, rel=0.02)


def test_widened_box_is_ten_percent_wider() -> None:
    x = source({"domain": {"x": [-1, 1], "t": [0, 2]}}).widened()
    assert x is not None and float(x.tensors[0][:, 0].abs().max()) == pytest.approx(1.1, abs=0.01)


def test_same_seed_same_points() -> None:
    a, b = (source({"seed": 5}).held_out().tensors[0] for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, source({"seed": 6}).held_out().tensors[0])


def test_gaussian_has_its_covariance(tmp_path: Path) -> None:
    cov = np.array([[2.0, 1.0], [1.0, 1.0]])
    np.savez(tmp_path / "g.npz", mean=np.array([3.0, -1.0]), cov=cov)
    x = plain({"gaussian": {"file": str(tmp_path / "g.npz")}, "samples": 20000}).calibration().tensors[0]
    assert np.allclose(np.cov(x.numpy().T), cov, atol=0.08)
    assert x.mean(0).tolist() == pytest.approx([3, -1], abs=0.05)


def test_a_factor_stands_for_a_covariance(tmp_path: Path) -> None:
    factor = np.array([[1.0, 0.0], [2.0, 0.5], [-1.0, 1.0]])
    np.savez(tmp_path / "g.npz", mean=np.array([[0.0], [3.0], [0.0]]), L=factor)
    given = {"file": str(tmp_path / "g.npz"), "factor": "L"}
    x = plain({"gaussian": given, "samples": 40000}).calibration().tensors[0]
    assert x.shape == (40000, 3) and torch.linalg.matrix_rank(x - x.mean(0), rtol=1e-9) == 2
    assert np.allclose(np.cov(x.numpy().T), factor @ factor.T, atol=0.1)
    shaped = plain({"gaussian": {**given, "shape": [1, 3]}, "samples": 40000}).calibration().tensors[0]
    assert torch.equal(shaped, x[:, None])


@pytest.mark.parametrize("cartesian", [True, False])
def test_random_functions_meet_given_points(tmp_path: Path, cartesian: bool) -> None:
    points = np.linspace(0, 1, 7)[:, None]
    np.savez(tmp_path / "g.npz", mean=np.zeros(2), cov=np.eye(2), trunk=points)
    given = {"gaussian": {"file": str(tmp_path / "g.npz"), "points": "trunk"}, "samples": 500}
    drawn = plain(given, cartesian).calibration()
    assert drawn.joint != cartesian and len(drawn) == 500
    if cartesian:
        assert np.array_equal(drawn.tensors[1].numpy(), points)
    else:
        assert drawn.tensors[1].shape == (500, 1) and len(drawn.tensors[1].unique()) == 7


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "npy", "csv"])
def test_files_give_disjoint_rows(tmp_path: Path, suffix: str) -> None:
    x, path = np.arange(80, dtype=np.float64).reshape(40, 2), tmp_path / f"x.{suffix}"
    if suffix == "safetensors":
        save_file({"x": x}, path)
    elif suffix == "npz":
        np.savez(path, x=x)
    elif suffix == "npy":
        np.save(path, x)
    else:
        np.savetxt(path, x, delimiter=",", header="a,b", comments="")
    points = plain({"inputs": str(path)})
    deal = points.calibration, points.held_out, points.guard, points.fresh
    folds = [set(map(tuple, fold().tensors[0].tolist())) for fold in deal]
    assert not any(a & b for a, b in combinations(folds, 2))
    assert [len(fold) for fold in folds] == [20, 10, 5, 5]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64, torch.int64])
def test_points_that_others_hold_too_are_counted(dtype: torch.dtype) -> None:
    t, more = torch.arange(12).reshape(6, 2).to(dtype), torch.arange(6)
    points = Points((t, more))
    assert points.among(points) == 6 and points.take(slice(0, 4)).among(points.take(slice(3, 6))) == 1
    assert points.among(Points((t, more + 1))) == 0 and points.among(Points((t.flip(0), more.flip(0)))) == 6
    assert Points((t, more), joint=False).among(Points((t, more + 1), joint=False)) == 6


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("no archive")
    np.savez(tmp_path / "nan.npz", x=np.array([[np.nan]]))
    np.savez(tmp_path / "bad.npz", mean=np.zeros(2), cov=-np.eye(2))
    np.savez(tmp_path / "factor.npz", mean=np.zeros(2), L=np.ones((3, 1)), cov=np.eye(2))
    factor = {"file": str(tmp_path / "factor.npz"), "factor": "L"}
    np.savez(tmp_path / "text.npz", x=np.array(["a", "b"]))
    np.savez(tmp_path / "single.npz", x=np.float64(3))
    np.savez(tmp_path / "unequal.npz", x=np.zeros((40, 2)), t=np.zeros((30, 1)))
    whole = (tmp_path / "unequal.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:200])
    (tmp_path / "changed.npz").write_bytes(whole[:300] + b"\xff" + whole[301:])
    for name in ("empty.npy", "empty.npz", "empty.csv"):
        (tmp_path / name).touch()
    for calibration, text in (
        ({"inputs": str(tmp_path / "x.npz")}, "cannot be read: it is no file of plain arrays"),
        ({"inputs": str(tmp_path / "text.npz")}, "x holds str.*numbers are needed"),
        ({"inputs": str(tmp_path / "single.npz")}, "x is a single number"),
        ({"inputs": str(tmp_path / "unequal.npz")}, "inputs have 30 and 40 samples"),
        ({"inputs": str(tmp_path / "nan.npz")}, "nan or inf"),
        ({"inputs": str(tmp_path / "x.txt")}, "there is no file"),
        ({"gaussian": {"file": str(tmp_path / "bad.npz")}}, "no covariance"),
        ({"gaussian": factor}, r"mean has 2 entries, so L must be 2 x r, got \(3, 1\)"),
        ({"gaussian": {"file": factor["file"], "shape": [3]}}, r"mean has 2 entries, shape \[3\] does not hold them"),
        ({"gaussian": {"file": factor["file"], "points": "trunk"}}, "factor.npz has no trunk, it has mean, L, cov"),
        ({"inputs": str(tmp_path / "empty.npy")}, "empty.npy cannot be read"),
        ({"inputs": str(tmp_path / "empty.npz")}, "empty.npz cannot be read"),
        ({"inputs": str(tmp_path / "cut.npz")}, "cut.npz cannot be read"),
        ({"inputs": str(tmp_path / "changed.npz")}, "changed.npz cannot be read"),
        ({"inputs": str(tmp_path / "empty.csv")}, "has 0 rows"),
    ):
        with pytest.raises(NetworkError, match=text):
            plain(calibration).calibration()


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">i4", "<f2", np.longdouble, ">c16", np.clongdouble])
def test_arrays_in_dtypes_that_torch_lacks_are_read_as_others(tmp_path: Path, dtype: object) -> None:
    x = np.arange(80).reshape(40, 2)
    np.savez(tmp_path / "x.npz", x=x.astype(dtype))  # type: ignore[arg-type]
    found = plain({"inputs": str(tmp_path / "x.npz"), "samples": 40}).calibration().tensors[0]
    assert set(found.real.double()[:, 0].tolist()) <= set(x[:, 0].tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_safetensors_in_dtypes_that_numpy_lacks_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.arange(8.0).repeat(5, 1).to(dtype)
    safetensors.torch.save_file({"x": x}, tmp_path / "x.safetensors")
    found = plain({"inputs": str(tmp_path / "x.safetensors")}).calibration().tensors[0]
    assert torch.equal(found[0], x[0].double())


def test_complex_inputs_come_in_the_precision_of_the_network(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.ones((40, 2), np.complex128))
    settings = outputs_settings(calibration={"inputs": str(tmp_path / "z.npy")}).calibration
    assert settings is not None
    assert Source(settings, False, torch.float32).calibration().tensors[0].dtype == torch.complex64

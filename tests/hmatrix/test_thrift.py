"""Claims about rounding to smaller integers: at low rates it takes fewer bytes, and the bound holds as it did."""

from pathlib import Path

import pytest
import torch

from hmcompress.hmatrix import HMatrix, compress_matrix, measure_error, tune_thrift
from hmcompress.hmatrix.request import Request, first_step
from hmcompress.hmatrix.tree.encode import Thrift
from hmcompress.hmatrix.tune import payload_at, tune_interpolated


def scaled(m: int, n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Noise whose rows and columns differ in size, as those of trained layers do."""
    g = torch.Generator().manual_seed(3)
    sizes = torch.exp(torch.randn(m, 1, generator=g)) * torch.exp(torch.randn(n, generator=g))
    return (torch.randn(m, n, generator=g) * sizes).to(dtype)


def load_operator() -> torch.Tensor:
    """A learned solution operator (1024, 1024) on shuffled points."""
    tensors = torch.load(Path(__file__).parents[2] / "sample_models" / "poisson.pt", weights_only=True)
    return max(tensors.values(), key=torch.numel)


@pytest.fixture
def without(monkeypatch):
    """compress_matrix where every entry is rounded to the nearest integer."""

    def run(w: torch.Tensor, tol: float, **how) -> HMatrix:
        with monkeypatch.context() as patched:
            patched.setattr("hmcompress.hmatrix.compress.with_thrift", lambda request, tuned: tuned)
            return compress_matrix(w, tol, **how)

    return run


@pytest.mark.parametrize(("tol", "share"), [(0.3, 0.9), (0.2, 0.92), (0.1, 0.96)])
def test_scaled_noise_takes_fewer_bytes_and_the_bound_holds(without, tol, share):
    w = scaled(160, 192)
    found = compress_matrix(w, tol)
    assert found.nbytes < share * without(w, tol).nbytes
    assert 0.97 * tol < measure_error(w, found.to_dense())[0] <= tol


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_of_any_dtype(without, dtype):
    w = scaled(96, 128, dtype)
    found = compress_matrix(w, 0.1)
    assert found.nbytes < without(w, 0.1).nbytes
    assert measure_error(w, found.to_dense())[0] <= 0.1


def test_a_tree_of_smooth_blocks_and_a_hybrid_leaf_take_fewer_bytes(without):
    g = torch.Generator().manual_seed(4)
    walk = torch.randn(192, 192, generator=g).cumsum(0)
    spiked = torch.randn(192, 8, generator=g) @ torch.randn(8, 192, generator=g) + torch.randn(192, 192, generator=g)
    for w in (walk, spiked):
        found = compress_matrix(w, 0.1)
        assert found.nbytes < 0.99 * without(w, 0.1).nbytes and found.error <= 0.1


def test_either_kind_of_scales_serves_some_matrix(monkeypatch):
    def by_kind(w: torch.Tensor) -> list[int]:
        sizes = []
        for kind in (True, False):
            with monkeypatch.context() as patched:
                patched.setattr(
                    "hmcompress.hmatrix.tune_thrift.Thrift", lambda amount, _, kind=kind: Thrift(amount, kind)
                )
                sizes.append(compress_matrix(w, 0.1).nbytes)
        return sizes

    operator = load_operator()[:256, :256].contiguous()
    for w, better in ((scaled(160, 192), 0), (operator, 1)):
        sizes = by_kind(w)
        assert sizes[better] == min(sizes) < max(sizes)
        assert compress_matrix(w, 0.1).nbytes == min(sizes)


@pytest.mark.parametrize("how", [{"norm": "max"}, {"norm": "spectral"}, {"effort": "fast"}])
def test_where_each_entry_counts_or_time_does_nothing_changes(without, how):
    w = scaled(64, 80)
    assert compress_matrix(w, 0.1, **how).payload == without(w, 0.1, **how).payload


def test_nothing_is_tried_at_high_rates(without):
    w = scaled(64, 80)
    assert compress_matrix(w, 1e-4).payload == without(w, 1e-4).payload


@pytest.mark.parametrize(("tol", "kinds"), [(0.25, {True, False}), (0.13, {True})])
def test_one_kind_of_scales_is_enough_where_rates_are_not_low(tol, kinds, monkeypatch):
    tried = set[bool]()

    def noted(request, drafts, candidate, step):
        tried.add(drafts.thrift.modelled)
        return payload_at(request, drafts, candidate, step)

    monkeypatch.setattr(tune_thrift, "payload_at", noted)
    compress_matrix(torch.randn(128, 128, generator=torch.Generator().manual_seed(0)), tol)
    assert tried == kinds


def test_what_prediction_leaves_takes_fewer_bytes(monkeypatch):
    field = torch.randn(192, 192, generator=torch.Generator().manual_seed(6)).cumsum(0).cumsum(1)
    request = Request(field, 0.1, "fro", "default", float(field.norm()))
    found = tune_interpolated(request, first_step(request), field.nbytes)
    monkeypatch.setattr(Request, "suits_thrift", lambda *_: False)
    nearest = tune_interpolated(request, first_step(request), field.nbytes)
    assert found is not None and nearest is not None
    assert found.nbytes < 0.95 * nearest.nbytes
    assert measure_error(field, found.to_dense())[0] <= 0.1

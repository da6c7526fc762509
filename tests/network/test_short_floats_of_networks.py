"""Networks of 16-bit weights: what small changes are to show is not lost in rounding."""

import math
from pathlib import Path

import pytest
import torch
from product_networks import Own
from reparametrised import normed
from small_networks import outputs_settings, saved
from torch import Tensor, nn

import hmcompress
from hmcompress.network import pose
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.others import perturbed_errors
from hmcompress.network.layerwise.propagate import Knobs, decoded, run_pass
from hmcompress.network.owned import load_tensors


def normed_in_bfloat16() -> nn.Module:
    return normed().to(torch.bfloat16).eval()


def own_in_bfloat16() -> nn.Module:
    return Own().to(torch.bfloat16).eval()


class Attended(nn.Module):
    """A point at five scales, with attention between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.feed, self.last = nn.Linear(2, 32), nn.Linear(32, 48), nn.Linear(48, 3)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x[:, None, :] * torch.arange(1, 6, dtype=x.dtype)[None, :, None])
        return self.last(nn.functional.gelu(self.feed(h + self.attention(h, h, h)[0])).mean(1))


def attended_in_bfloat16() -> nn.Module:
    torch.manual_seed(1)
    return Attended().to(torch.bfloat16).eval()


def factory(name: str) -> dict:
    return {"network": {"factory": f"{__file__}:{name}"}, "ntk": "off", "effort": "fast"}


def test_a_change_of_few_numbers_shows_through_16_bits() -> None:
    """As large as in float32, but for a third; the step of float32 leaves each number what it is."""
    settings = outputs_settings(**factory("normed_in_bfloat16"))
    short = normed_in_bfloat16().state_dict()
    long = {name: t.float() for name, t in short.items()}
    posed = pose(settings, short), pose(outputs_settings(**factory("normed_in_float32")), long)
    found = [
        perturbed_errors(p.network, p.calibration.points, t, [n for n in short if n.endswith("original0")], "l2")
        for p, t in zip(posed, (short, long), strict=True)
    ]
    assert found[0].keys() == found[1].keys() and len(found[0]) == 3
    for name, error in found[0].items():
        assert math.isclose(error, found[1][name], rel_tol=0.35)


def normed_in_float32() -> nn.Module:
    return normed_in_bfloat16().float()


@pytest.mark.parametrize("name", ["normed_in_bfloat16", "own_in_bfloat16", "attended_in_bfloat16"])
def test_the_record_is_what_the_module_itself_shows(name: str, tmp_path: Path) -> None:
    """Layers in the place of its own products round their sums elsewhere, as do weights that lie by columns."""
    checkpoint = saved(tmp_path, globals()[name]().state_dict())
    settings = outputs_settings(tol=3e-2, **factory(name))
    report = hmcompress.compress(checkpoint.path, tmp_path / "f", settings=settings)
    verdict = hmcompress.verify(tmp_path / "f", checkpoint.path)
    assert verdict.passed and 0 < report.network.error <= 3e-2
    assert verdict.network.error == report.network.error


def dense_in_bfloat16() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 20)).bfloat16()


def dense_in_float32() -> nn.Module:
    return dense_in_bfloat16().float()


def test_passes_take_layers_that_read_bfloat16(tmp_path: Path) -> None:
    """And need no more for the same numbers than in float32."""
    sizes = []
    for name in ("dense_in_bfloat16", "dense_in_float32"):
        checkpoint = saved(tmp_path, globals()[name]().state_dict())
        settings = outputs_settings(**factory(name))
        problem = pose(settings, load_tensors(checkpoint))
        data = prepare(problem, load_tensors(checkpoint), "fast")
        parts = run_pass(problem.network, data, Knobs(1e-2))
        assert max(problem.errors(problem.held_out, decoded(problem.network, data, parts))) < 6e-2
        sizes.append(sum(len(part.payload(thorough=True)) for part in parts.values()))
    assert sizes[0] < 1.1 * sizes[1]

"""Small networks are not looked for where the precision of the file alone loses more than the tolerance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import outputs_settings, saved, stack

import hmcompress.network.stages as stages
from hmcompress.network import compress_network, pose
from hmcompress.network.layerwise.coded import lossless
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.stages import lost_in_rounding
from hmcompress.work.progress import silent


def subject_of(dtype: torch.dtype, tol: float = 1e-4) -> Subject:
    tensors = {name: t.to(dtype) for name, t in stack([2, 16, 16, 1]).items()}
    problem = pose(outputs_settings(), tensors)
    return Subject.of(problem, tensors, tol, "fast", silent)


@pytest.mark.parametrize(
    ("dtype", "tol", "lost"),
    [
        (torch.bfloat16, 1e-4, True),
        (torch.float16, 1e-5, True),
        (torch.bfloat16, 1e-1, False),
        (torch.float32, 1e-4, False),
        (torch.float32, 1e-9, True),
    ],
)
def test_rounding_is_lost_where_its_noise_exceeds_the_tolerance(dtype: torch.dtype, tol: float, lost: bool) -> None:
    assert lost_in_rounding(subject_of(dtype), tol) == lost


@pytest.mark.parametrize(("dtype", "tried"), [(torch.bfloat16, 0), (torch.float32, 1)])
def test_no_small_network_is_looked_for_where_rounding_loses_more(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tried: int
) -> None:
    looked = list[Any]()
    monkeypatch.setattr(stages, "origins_of", lambda problem: looked.append(problem) or ())
    subject = subject_of(dtype)
    small, settings = stages.SmallNetworks(subject), outputs_settings(tol=1e-4, ntk="off", effort="default")
    assert small.smallest(settings, lambda parts: 0.0, lambda: 0.0) is None
    assert len(looked) == tried


@pytest.mark.parametrize("tol", [1e-3, 3e-4])
def test_weights_of_16_bits_take_no_more_than_without_loss(tmp_path: Path, tol: float) -> None:
    state = {name: t.bfloat16() for name, t in stack([2, 40, 40, 1]).items()}
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    joined = (torch.cat([state[f"{n}.weight"], state[f"{n}.bias"][:, None]], 1) for n in names)
    settings = outputs_settings(tol=tol, ntk="off", effort="fast")
    result = compress_network(saved(tmp_path, state), settings)
    assert sum(len(layer.payload) for layer in result.layers) <= sum(len(lossless(w).data) for w in joined)
    assert result.record.error <= tol

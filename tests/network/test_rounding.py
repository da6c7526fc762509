"""Small networks are not looked for where the precision of the file alone loses more than the tolerance."""

from typing import Any

import pytest
import torch
from small_networks import outputs_settings, stack

import hmcompress.network.stages as stages
from hmcompress.network import pose
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

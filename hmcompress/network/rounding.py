"""What is lost by the precision alone in which weights are stored: too much for weights that are learned anew, where
these have 16 bits and the tolerance is fine."""

import torch
from torch import Tensor

from hmcompress.network.allotment import weights_of
from hmcompress.network.layerwise.subject import Subject

_RELATIVE = 0.2  # root mean square of an error of rounding to nearest, over the distance from one to the next number
_FAR = 0.01  # of the tolerance: such a distance below which nothing is lost


def lost_in_rounding(subject: Subject, tol: float) -> bool:
    """Whether noise as large as rounding errors on all weights makes an error of more than the tolerance."""
    weights = {name: w for name, w in weights_of(subject).items() if w.is_floating_point()}
    if not any(torch.finfo(w.dtype).eps > _FAR * tol for w in weights.values()):
        return False
    generator = torch.Generator().manual_seed(0)
    return subject.measure_of_tensors(tol, None)({name: _moved(w, generator) for name, w in weights.items()}) > tol


def _moved(w: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    return w.double() * (1 + _RELATIVE * torch.finfo(w.dtype).eps * noise)

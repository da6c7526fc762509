"""Rounding by rate and distortion: of two integers about as near, the smaller one, which takes fewer bits.

Of numbers of standard deviation s, in steps, the next larger integer takes about sqrt(2) / s nats more, as of a
Laplacian. Where the bits that all numbers take and the error that they make are weighed as they are elsewhere, the
border half-way between two integers moves away from zero by a constant over s (Sullivan 1996). At high rates that is
nothing; where most integers are 0 or 1 it takes several per cent of the bits, since the step that makes the same error
is hardly finer.
"""

import numpy as np

Array = np.ndarray
THRIFT = 20 / 256  # the constant, about the best one for noise of any scale; stored in a byte
_MOST = 0.45  # steps: no number is rounded by a whole one


def moved(scales: Array, thrift: float) -> Array:
    """How far from zero the borders between integers are moved, in steps, for numbers of these standard deviations.

    By one division and a comparison, which are the same on every machine.
    """
    return np.minimum(thrift / np.maximum(scales, thrift), _MOST)


def shrunk(x: Array, scales: Array, thrift: float = THRIFT) -> Array:
    """Numbers x (m, n) nearer to zero, by what the borders are moved: their nearest integers are those of x then.

    scales: standard deviations, (m, n) or what is broadcast to that.
    """
    size = np.abs(x)
    size -= moved(scales, thrift)
    return np.copysign(np.maximum(size, 0, out=size), x)

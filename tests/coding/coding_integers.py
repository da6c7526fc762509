"""Integer arrays that a coder meets: by scale, by shape, and at the edges; and damage to what it made of them."""

from collections.abc import Iterator

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60, database=None)
KINDS = ("gaussian", "laplace", "uniform", "cauchy", "sparse", "constant", "huge")


def integers(kind: str, n: int, scale: float, seed: int = 0) -> np.ndarray:
    """n integers, int64, of about the given standard deviation; `huge` ones reach 2 ** 40 whatever the scale."""
    random = np.random.default_rng(seed)
    x = {
        "gaussian": lambda: random.standard_normal(n) * scale,
        "laplace": lambda: random.laplace(size=n) * scale,
        "uniform": lambda: random.uniform(-1.7, 1.7, n) * scale,
        "cauchy": lambda: np.clip(random.standard_cauchy(n) * scale, -(2.0**40), 2.0**40),
        "sparse": lambda: random.standard_normal(n) * scale * (random.random(n) < 0.02),
        "constant": lambda: np.full(n, scale),
        "huge": lambda: random.uniform(-(2.0**40), 2.0**40, n),
    }[kind]()
    return np.rint(x).astype(np.int64)


@st.composite
def integer_arrays(draw, largest: int = 3000) -> np.ndarray:
    """Arrays of every kind, empty ones included."""
    n = draw(st.integers(0, 40) | st.integers(0, largest))
    return integers(draw(st.sampled_from(KINDS)), n, 2.0 ** draw(st.floats(-6, 36)), draw(st.integers(0, 99)))


def damaged(data: bytes, count: int) -> Iterator[bytes]:
    """Seeded truncations, flipped bits, overwritten and inserted runs; more of them near the start."""
    random = np.random.default_rng(len(data))
    for i in range(count):
        out, at = bytearray(data), int(len(data) * random.random() ** 3)
        run = random.integers(0, 256, random.integers(1, 9)).astype(np.uint8).tobytes()
        if i % 4 == 0:
            out = out[:at]
        elif i % 4 == 1:
            out[at] ^= 1 << random.integers(8)
        elif i % 4 == 2:
            out[at : at + len(run)] = run
        else:
            out[at:at] = run
        yield bytes(out)

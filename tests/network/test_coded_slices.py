"""Stacks whose slices are coded by themselves come back, however long each slice is."""

import numpy as np
import torch

from hmcompress.container.payload import decode_layer
from hmcompress.hmatrix.codecs import BASED, OF_TWO, PARTED, TURNED
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.network.layerwise.coded import Compact, Slices

SHAPE = (3, 24, 20)


def of_few(rng: np.random.Generator, entries: int) -> Compact:
    """A slice in a dozen bytes or two."""
    q = np.zeros(SHAPE[1:], np.int64)
    q.flat[rng.choice(q.size, entries, replace=False)] = rng.integers(1, 4, entries)
    return Compact(Grid(q, np.zeros(len(q), np.int64), rng.integers(-3, 4, q.shape[1])))


def test_a_stack_whose_first_length_is_the_number_of_a_kind_comes_back() -> None:
    rng, lengths = np.random.default_rng(0), set()
    for entries in range(1, 13):
        for _ in range(6):
            slices = Slices(tuple(of_few(rng, k) for k in (entries, 5, 9)), SHAPE, torch.float32)
            lengths.add(len(slices.parts[0].payload(thorough=True)))
            (decoded,) = decode_layer(slices.payload(thorough=True), [SHAPE], torch.float32)
            assert torch.equal(decoded, slices.dense().float())
    assert lengths > {BASED, TURNED, PARTED, OF_TWO}

"""Payloads written by the first release decode for ever to the values they were written for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hmcompress.coding import pool
from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.tree import treestream

with np.load(Path(__file__).parent / "golden" / "payloads_1.npz") as stored:
    ARRAYS = dict(stored)
NAMES = sorted(name.removesuffix(".payload") for name in ARRAYS if name.endswith(".payload"))


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_of_version_1_decodes_to_its_values(name: str) -> None:
    decoded = ARRAYS[f"{name}.decoded"]
    dtype = getattr(torch, str(ARRAYS[f"{name}.dtype"]))
    matrix = HMatrix.from_payload(ARRAYS[f"{name}.payload"].tobytes(), decoded.shape, dtype)
    scale = np.abs(decoded).max(initial=0)
    # Products of factors may differ in their last bits from one linear algebra library to the next.
    np.testing.assert_allclose(matrix.to_dense().double().numpy(), decoded, rtol=0, atol=1e-6 * scale)


def test_every_codec_of_a_matrix_has_a_golden_payload() -> None:
    assert {int(ARRAYS[f"{name}.payload"][0]) for name in NAMES} == {
        0,
        1,
        3,
        4,
        6,
        8,
        9,
        10,
        11,
        13,
        16,
    }  # 2, 5, 7 and 14: see tests/network


def test_every_kind_of_pool_has_a_golden_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds, decode_pool = set(), pool.decode_pool
    monkeypatch.setattr(treestream, "decode_pool", lambda data, *how: kinds.add(data[0]) or decode_pool(data, *how))
    for name in NAMES:
        dtype = getattr(torch, str(ARRAYS[f"{name}.dtype"]))
        HMatrix.from_payload(ARRAYS[f"{name}.payload"].tobytes(), ARRAYS[f"{name}.decoded"].shape, dtype)
    shaped = {pool.ANS, pool.PCODEC, pool.DIAGONALS, pool.THRIFTY}
    assert kinds >= {*shaped, pool.BY_ROWS, pool.BY_COLUMNS, pool.SPARSE, pool.SPARSE_BY_COLUMNS}

"""Claims about lines that are others, moved or with other signs: they cost what those lines cost that are no copies."""

import functools

import numpy as np
import pytest
import torch
from hmatrix_matrices import noise
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.side import encode_side
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.codecs import COPIED, LISTED, TILED
from hmcompress.hmatrix.patterns.copied import (
    ANTIDIAGONALS,
    COLUMNS,
    DIAGONALS,
    ROWS,
    from_copies,
    from_lines,
    to_lines,
)
from hmcompress.hmatrix.patterns.find_copies import find_copies

Array = np.ndarray
N = 128
HALF = noise(N // 2, N)
ORDER = np.random.default_rng(1).permutation(N)
SIGNS = np.where(noise(N, 1, 2) < 0, -1, 1)


def rotated(outputs: int, inputs: int, k: int, mirrored: bool = False) -> Array:
    """A convolution that is equivariant to rotations by 90 degrees, and to mirror images, written out."""
    group = [(m, r) for m in range(1 + mirrored) for r in range(4)]
    base = noise(outputs * inputs, len(group) * k * k, 3).reshape(outputs, inputs, len(group), k, k)
    w = np.empty((outputs, len(group), inputs, len(group), k, k))
    for i, (m, r) in enumerate(group):
        for j, (m2, r2) in enumerate(group):
            source = (m2 + m) % 2, (r2 - r) * (-1) ** m % 4  # the inverse of the one, times the other
            part = base[:, :, group.index(source)]
            w[:, i, :, j] = np.rot90(part[..., ::-1] if m else part, r, (-2, -1))
    return w.reshape(outputs * len(group), -1)


def blocks(*rows: list[Array]) -> Array:
    return np.block(list(rows))


def quaternions() -> Array:
    a, b, c, d = noise(N, N // 4).reshape(4, N // 4, N // 4)
    return blocks([a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a])


def symmetric(sign: int = 1) -> Array:
    x = np.triu(noise(N, N), 1)
    return x + sign * x.T + (np.diag(noise(N, 1)[:, 0]) if sign > 0 else 0)


MIRRORED = np.array([0, 1, 0, 2, 3, 2, 4, 5, 4])
UNDER = noise(N // 2, N // 2), noise(N // 2, N // 2, 7)
KINDS = {  # name: (matrix, entries that are no copies, entries of a kernel)
    "opposite": (np.concatenate([HALF, -HALF]), HALF.size, 1),
    "opposite anywhere": ((SIGNS * np.concatenate([HALF, HALF]))[ORDER], HALF.size, 1),
    "opposite columns": (np.concatenate([HALF, -HALF])[ORDER].T, HALF.size, 1),
    "a third": (np.concatenate([HALF, noise(N // 2, N, 4), -HALF])[np.argsort(noise(1, N + N // 2)[0])], N * N, 1),
    "reversed anywhere": (np.concatenate([HALF, HALF[:, ::-1]])[ORDER], HALF.size, 1),
    "palindromes": (np.concatenate([HALF.T, HALF.T[:, ::-1]], 1), HALF.size, 1),
    "even and odd": (np.concatenate([HALF.T, SIGNS * HALF.T[:, ::-1]], 1), HALF.size, 1),
    "reversed in kernels": (np.concatenate([HALF, HALF.reshape(-1, 16, 8)[..., ::-1].reshape(-1, N)]), HALF.size, 8),
    "mirrored kernels": (noise(N, 96)[:, (np.arange(16)[:, None] * 6 + MIRRORED).reshape(-1)], N * 96, 9),
    "rotated": (rotated(16, 8, 3), 64 * 32 * 9 // 4, 9),
    "rotated and shuffled": (rotated(16, 8, 3)[np.argsort(noise(1, 64)[0])], 64 * 32 * 9 // 4, 9),
    "rotated and mirrored": (rotated(8, 8, 5, True), 64 * 64 * 25 // 8, 25),
    "symmetric": (symmetric(), N * (N + 2) // 2, 1),
    "antisymmetric": (symmetric(-1), N * N // 2, 1),
    "persymmetric": (symmetric()[:, ::-1], N * (N + 2) // 2, 1),
    "antisymmetric to the other diagonal": (symmetric(-1)[::-1], N * N // 2, 1),
    "centrosymmetric": (np.concatenate([HALF, HALF[::-1, ::-1]]), HALF.size, 1),
    "complex": (blocks([UNDER[0], -UNDER[1]], [UNDER[1], UNDER[0]]), HALF.size, 1),
    "quaternions": (quaternions(), N * N // 4, 1),
}  # fmt: skip


def tensor(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(KINDS[name][0])).to(dtype)


def compressed(name: str, tol: float, norm: str = "fro", dtype: torch.dtype = torch.float32) -> HMatrix:
    """Compressed, and read back from its payload."""
    w = tensor(name, dtype)
    h = compress_matrix(w, tol, norm, kernel=KINDS[name][2])
    decoded = HMatrix.from_payload(h.payload, h.shape, h.dtype).to_dense()
    assert h.payload[0] == COPIED and h.error <= tol and torch.equal(decoded, h.to_dense())
    if norm == "fro":
        assert float((decoded.double() - w.double()).norm() / w.double().norm()) <= tol * (1 + 1e-9)
    return h


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("name", KINDS)
def test_copies_cost_nothing_but_their_places(name, tol):
    assert compressed(name, tol).nbytes < 1.01 * bytes_of_noise(KINDS[name][1], tol) + 180


@functools.cache
def bytes_of_noise(entries: int, tol: float) -> int:
    return compress_matrix(torch.from_numpy(noise(64, entries // 64)).float(), tol).nbytes


@pytest.mark.parametrize("norm", ["fro", "max", "spectral"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["opposite anywhere", "even and odd", "rotated", "antisymmetric", "quaternions"])
def test_copies_in_any_dtype_and_norm_take_what_is_no_copy(name, dtype, norm):
    w = torch.from_numpy(noise(*tensor(name).shape, 5)).to(dtype)
    whole, entries = compress_matrix(w, 1e-2, norm).nbytes, KINDS[name][1]
    assert compressed(name, 1e-2, norm, dtype).nbytes < 1.1 * whole * entries / w.numel() + 150


@pytest.mark.parametrize("size", [1e-32, 1e-8, 1e30])
@pytest.mark.parametrize("name", ["opposite anywhere", "rotated", "symmetric"])
def test_copies_are_found_at_any_size(name, size):
    w = tensor(name)
    usual = compress_matrix(w, 1e-2)
    assert compress_matrix(w * size, 1e-2).nbytes < 1.01 * usual.nbytes


def test_lines_that_repeat_both_ways_are_stored_once():
    w = noise(N // 2, N // 2)
    w = np.concatenate([w, w[:, ::-1]], 1)
    w = torch.from_numpy(np.concatenate([w, -w])[ORDER]).float()
    h = compress_matrix(w, 1e-3)
    assert h.nbytes < compress_matrix(torch.from_numpy(UNDER[0]).float(), 1e-3).nbytes + 250
    assert torch.equal(HMatrix.from_payload(h.payload, h.shape, h.dtype).to_dense(), h.to_dense())


def test_columns_that_are_copies_need_not_be_as_many_in_every_kernel():
    w = torch.from_numpy(noise(40, 61)).float()
    whole = torch.cat([w, -w[:, 3:29]], 1)
    assert compress_matrix(whole, 1e-2, kernel=3).nbytes < 1.02 * compress_matrix(w, 1e-2).nbytes + 60


def test_a_sparse_symmetric_matrix_costs_half():
    w = symmetric() * (symmetric() > 2)
    other = noise(N, N, 8) * (noise(N, N, 9) > 2)
    assert compressed_bytes(w) < 0.65 * compressed_bytes(other)


def compressed_bytes(w: Array) -> int:
    return compress_matrix(torch.from_numpy(w).float(), 1e-2).nbytes


@pytest.mark.parametrize("shape", [(N, N), (64, 288), (300, 1000), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_has_no_copies(shape, dtype):
    assert find_copies(torch.from_numpy(noise(*shape)).to(dtype), 1, 1e-6, 8.0) is None


def test_a_copy_that_differs_by_more_than_rounding_is_none():
    w = tensor("opposite")
    w[:, 5] *= 1.001
    w[N // 2 :, 5] *= 1.01
    assert find_copies(w, 1, 0.1, 8.0) is None


def test_rounding_of_copies_is_in_the_error():
    w = tensor("opposite")
    w[N // 2 :] *= 1 + 5e-8 * torch.from_numpy(noise(N // 2, N, 6)).float()
    h = compress_matrix(w, 1e-4)
    error = float((h.to_dense().double() - w.double()).norm() / w.double().norm())
    assert h.payload[0] == COPIED and h.error == pytest.approx(error, rel=1e-9) and error <= 1e-4


@pytest.mark.parametrize("arrangement", [ROWS, COLUMNS, DIAGONALS, ANTIDIAGONALS])
@pytest.mark.parametrize("n", [5, 8])
def test_lines_go_back_to_their_places(arrangement, n):
    w = torch.from_numpy(noise(n, n))
    assert torch.equal(from_lines(to_lines(w, arrangement), arrangement), w)


@pytest.mark.parametrize("name", KINDS)
def test_copies_give_back_every_value(name):
    w = tensor(name, torch.bfloat16)
    found = find_copies(w, KINDS[name][2], 1e-6, 8.0)
    assert found is not None and torch.equal(from_copies(found.values(w), found), w)


def test_a_matrix_of_copies_multiplies():
    h = compressed("quaternions", 1e-2)
    x = torch.from_numpy(noise(N, 3))
    torch.testing.assert_close(h @ x, h.to_dense().double() @ x)
    torch.testing.assert_close(h.T @ x, h.to_dense().double().T @ x)


def body(
    arrangement: int, distances: list[int], how: list[int], places: list[int] | None = None, signs: int = 0
) -> bytes:
    """A payload of a matrix (4, 4) of copies of zeros."""
    held = compress_matrix(torch.zeros(2, 4), 0.1).payload
    out = Writer().raw(bytes([COPIED])).uint(arrangement).uint(int(places is not None)).section(held)
    out.section(encode_side(np.array(distances))).section(encode_side(np.array(how)))
    if places is not None:
        out.section(encode_side(np.diff(places, prepend=-1) - 1)).raw(encode_side(np.full(len(places), signs)))
    return out.getvalue()


def decode(payload: bytes, shape: tuple[int, int] = (4, 4)) -> Tensor:
    return HMatrix.from_payload(payload, shape, torch.float32).to_dense()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (body(4, [0, 0, 1, 2], [0, 1]), "at most 3"),
        (body(0, [0, 0, 1, -1], [0, 1]), "copy of none"),
        (body(0, [0, 0, 1, 4], [0, 1]), "copy of none"),
        (body(0, [0, 0, 1, 1], [0, 1]), "copy of none"),
        (body(0, [0, 0, 1, 2], [0, 2]), "unknown way"),
        (body(0, [0, 0, 1, 2], [0, -1]), "unknown way"),
        (body(0, [0, 0, 1, 2], [0, 2], [0, 1, 2, 4]), "does not have"),
        (body(0, [0, 0, 1, 2], [0, 2], [0, 1, 2, -1]), "does not have"),
        (body(0, [0, 0, 1, 2], [0, 2], [0, 1, 2, 3], 2), "does not have"),
        (body(0, [0, 0, 1, 2], [0, 2], [0, 2, 1]), "integers are expected"),
        (body(0, [0, 0, 1, 2], [0, 1, 0]), "integers are expected"),
    ],
)
def test_copies_that_cannot_be_are_a_format_error(payload, message):
    assert decode(body(0, [0, 0, 1, 2], [0, 3], [3, 2, 1, 0], 1)).shape == (4, 4)
    with pytest.raises(FormatError, match=message):
        decode(payload)


def test_only_square_matrices_have_diagonals_that_are_copied():
    assert decode(body(DIAGONALS, [0, 0, 1, 2], [0, 1])).shape == (4, 4)
    with pytest.raises(FormatError, match="not square"):
        decode(body(DIAGONALS, [0, 0, 1, 2], [0, 1]), (4, 5))


def held_by(codec: int, payload: bytes) -> bytes:
    """The payload of a matrix (4, 4) as what tiles, lists or copies hold."""
    if codec == TILED:
        return bytes([TILED, 1, 4]) + payload
    if codec == COPIED:
        return Writer().raw(bytes([COPIED, 0, 0])).section(payload).section(b"\0\0").section(b"\0").getvalue()
    return Writer().raw(bytes([LISTED, 8])).section(payload).getvalue()


@pytest.mark.parametrize(
    "holders", [(TILED, LISTED), (LISTED, COPIED), (TILED, COPIED), (COPIED, COPIED), (TILED, TILED)]
)
def test_payloads_do_not_hold_each_other_without_end(holders):
    payload = compress_matrix(torch.zeros(4, 4), 0.1).payload
    for _ in range(2000):
        for codec in holders:
            payload = held_by(codec, payload)
    with pytest.raises(FormatError):
        decode(payload)


def test_the_distances_of_copies_stand_behind_what_is_stored():
    stream = Reader(compressed("opposite", 1e-2).payload)
    assert stream.raw(1)[0] == COPIED and (stream.uint(), stream.uint()) == (ROWS, 0) and len(stream.section()) > 1000

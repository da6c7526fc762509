"""A matrix on a grid whose step is the product of a row's and a column's: integers and exponents."""

from dataclasses import dataclass, replace

import numpy as np

EXPONENT_LIMIT = 250  # half octaves


def half_octaves(steps: np.ndarray) -> np.ndarray:
    """The nearest exponents e, (n,) int, with step about 2 ** (e / 2)."""
    return whole_exponents(2 * np.log2(steps))


def whole_exponents(exponents: np.ndarray) -> np.ndarray:
    """The nearest ones that can be stored, (n,) int."""
    return np.clip(np.rint(exponents), -EXPONENT_LIMIT, EXPONENT_LIMIT).astype(np.int64)


@dataclass(frozen=True)
class Grid:
    """q (m, n) integers with steps 2 ** ((row_exponents + column_exponents) / 2). Exponents of zero lines are moot."""

    q: np.ndarray
    row_exponents: np.ndarray
    column_exponents: np.ndarray

    def to_dense(self) -> np.ndarray:
        """The matrix, (m, n) float64."""
        return self.q * powers(self.row_exponents)[:, None] * powers(self.column_exponents)

    @property
    def live_rows(self) -> np.ndarray:
        return (self.q != 0).any(1)

    @property
    def live_columns(self) -> np.ndarray:
        return (self.q != 0).any(0)

    def take_rows(self, rows: slice | np.ndarray) -> "Grid":
        """Some of its rows: a slice, or a mask (m,)."""
        return replace(self, q=self.q[rows], row_exponents=self.row_exponents[rows])

    def among(self, columns: np.ndarray, count: int) -> "Grid":
        """A matrix (m, count) of which these are some columns, and the others zero."""
        q = np.zeros((len(self.q), count), self.q.dtype)
        q[:, columns] = self.q
        exponents = np.full(count, int(self.column_exponents.min(initial=0)))
        exponents[columns] = self.column_exponents
        return replace(self, q=q, column_exponents=exponents)

    def without_rows(self, dead: np.ndarray) -> "Grid":
        """The same with the rows of a mask (m,) set to zero."""
        return replace(self, q=np.where(dead[:, None], 0, self.q))

    def with_live_rows(self, w: np.ndarray) -> "Grid":
        """The same with the largest entry of w (m, n), in steps, in each row that would be zero and is not in w."""
        dead = np.flatnonzero(~self.live_rows & (w != 0).any(1))
        columns = np.abs(w[dead] / powers(self.column_exponents)).argmax(1)
        q = self.q.copy()
        q[dead, columns] = np.sign(w[dead, columns])
        return replace(self, q=q)


def powers(exponents: np.ndarray) -> np.ndarray:
    """2 ** (e / 2), the same on every machine."""
    return np.ldexp(np.where(exponents % 2 == 1, 2**0.5, 1.0), exponents // 2)

"""The mathematics: tensors in, HMatrix out. No files, no layer names, no printing."""

from hmcompress.hmatrix.basics.measure import measure_error
from hmcompress.hmatrix.compress import compress_matrix
from hmcompress.hmatrix.hmatrix import HMatrix

__all__ = ["HMatrix", "compress_matrix", "measure_error"]

"""The mathematics: tensors in, HMatrix out. No files, no layer names, no printing.

Here is the search: what a matrix and a tolerance ask for (request), cheap looks at it (screen), what is worth coding
(candidates), at which step (tune), and the smallest of all (compress). Below it lie the folders basics, tree, patterns
and grids, each built on those before it alone.
"""

from hmcompress.hmatrix.basics.measure import measure_error
from hmcompress.hmatrix.compress import compress_matrix
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.keep import keep_matrix

__all__ = ["HMatrix", "compress_matrix", "keep_matrix", "measure_error"]

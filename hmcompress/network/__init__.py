"""What needs the model itself: the outputs metric, its points, the tangent kernel.

`driver` is the way through: `model` builds the network, `bound` says what must hold, `stages` (by what lies in `joint`)
and `layerwise` search for the smallest file that holds it.
"""

from hmcompress.network.bound.problem import Problem, pose
from hmcompress.network.driver import compress_network, load_tensors
from hmcompress.network.layerwise.structure import stays_with_engine
from hmcompress.network.result import NetworkResult

__all__ = ["NetworkResult", "Problem", "compress_network", "load_tensors", "pose", "stays_with_engine"]

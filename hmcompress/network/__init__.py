"""What needs the model itself: the outputs metric, its points, the tangent kernel."""

from hmcompress.network.bound.problem import Problem, pose
from hmcompress.network.driver import compress_network, load_tensors
from hmcompress.network.result import NetworkResult

__all__ = ["NetworkResult", "Problem", "compress_network", "load_tensors", "pose"]

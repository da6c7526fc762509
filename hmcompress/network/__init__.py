"""What needs the model itself: the outputs metric, its points, the tangent kernel."""

from hmcompress.network.driver import compress_network
from hmcompress.network.result import NetworkResult, stored_record

__all__ = ["NetworkResult", "compress_network", "stored_record"]

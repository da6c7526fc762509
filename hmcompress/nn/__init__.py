"""Run and fine-tune from the compressed form."""

from hmcompress.nn.linear import HLinear, LowRankLinear
from hmcompress.nn.load import load_model
from hmcompress.nn.memory import resident_bytes
from hmcompress.nn.slim import slim_module

__all__ = ["HLinear", "LowRankLinear", "load_model", "resident_bytes", "slim_module"]

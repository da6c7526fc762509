"""Any saved model as a Checkpoint: ordered, lazy tensors, their ties, plain values around them, what was left behind.

Nothing in a source is ever executed or imported: pickles run on a machine of our own that builds tensors and stand-ins.
"""

from hmcompress.checkpoint.nest import pack_nest
from hmcompress.checkpoint.open import open_checkpoint
from hmcompress.checkpoint.records import Checkpoint, TensorEntry
from hmcompress.checkpoint.unnest import unpack_nest, with_composed

__all__ = ["Checkpoint", "TensorEntry", "open_checkpoint", "pack_nest", "unpack_nest", "with_composed"]

"""Files of torch.save before 1.6, and plain pickles of objects with tensors or arrays."""

from pathlib import Path

from hmcompress.checkpoint.assemble import Opened, opened_object
from hmcompress.checkpoint.blobs import Blob
from hmcompress.checkpoint.limits import Budget
from hmcompress.checkpoint.pickles import read_pickle
from hmcompress.checkpoint.plain import Notes


def open_pickle(path: Path, blob: Blob) -> Opened:
    """What such a file holds. Raises SourceError."""
    found, notes = read_pickle(blob, Budget(blob.nbytes)), Notes()
    if found.left:
        notes.add(
            "(file)", f"{found.left:,} bytes behind the first saved object, others perhaps; give each a file of its own"
        )
    return opened_object(found.kind, found.content, found.pickle_bytes, path, notes)

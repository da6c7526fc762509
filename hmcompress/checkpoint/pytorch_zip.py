"""Files of torch.save since 1.6: a zip archive with `data.pkl` and one entry per storage."""

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, opened_object
from hmcompress.checkpoint.zip_storages import ZipStorages, is_big_endian, unpickle_entry


def open_pytorch_zip(archive: Archive) -> Opened:
    """Tensors and plain values of a zip file of torch.save. Raises SourceError."""
    storages = ZipStorages(archive, big_endian=is_big_endian(archive))
    obj, length = unpickle_entry(archive, "data.pkl", storages)
    return opened_object("PyTorch (zip)", obj, length, archive.path)

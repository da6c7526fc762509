"""Which file is it? Told by its content; its name only helps the message."""

import string
from dataclasses import dataclass

ZIP = b"PK\3\4"
KERAS = (
    "load it with Keras and save its weights: numpy.savez(FILE, *model.get_weights()), or torch.save of state_dict()"
)
_TEXT = frozenset(string.printable.encode())
_BLANKS = b" \r\n\t\xef\xbb\xbf"  # and a byte order mark
_MUCH = 256  # bytes that may be a pickle with tensors, as skorch makes them
_PROTOBUF = frozenset(b"\x12\x1a\x22\x32\x3a\x42")  # what may follow the version in front of an exported graph


@dataclass(frozen=True)
class _Known:
    """A kind of file that is no source, by its first bytes, and what to do about it."""

    starts: tuple[bytes, ...]
    message: str
    at: int = 0


_FOREIGN = (
    _Known((b"version https://git-lfs",), "is a Git LFS pointer, not the model; fetch the file with `git lfs pull`"),
    _Known(
        (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--"),
        "is a web page, not a model: the download was answered with an error page; download it again",
    ),
    _Known((b"bzh",), "is bzip2-compressed; unpack it first (bunzip2)"),
    _Known((b"\xfd7zxz\0",), "is xz-compressed; unpack it first (unxz)"),
    _Known((b"(\xb5/\xfd",), "is zstd-compressed; unpack it first (unzstd)"),
    _Known((b"rar!", b"7z\xbc\xaf"), "is a packed archive; unpack it first"),
    _Known((b"\x89hdf\r\n",), f"is an HDF5 file (Keras?), not a PyTorch model; {KERAS}"),
    _Known((b"gguf",), "is a GGUF file, quantised already; compress the original PyTorch or safetensors model"),
    _Known((b"et12",), "is an ExecuTorch program; compress the PyTorch model that it was made from", 4),
    _Known((b"ftrt",), "is a TensorRT engine; compress the PyTorch model that it was made from"),
    _Known((b"tfl3",), "is a TensorFlow Lite model, not a PyTorch model; convert it first", 4),
    _Known((b"matlab 5.0 mat-file",), "is a MATLAB file, not a PyTorch model; save its arrays with torch.save"),
    _Known(
        (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"),
        "is zlib-compressed (joblib?); load it with joblib and save what it holds with torch.save",
    ),
    _Known((b"\x93numpy",), "is a single numpy array; save it with torch.save(torch.from_numpy(array), FILE)"),
    _Known((b"%pdf",), "is a PDF document, not a model"),
    _Known((b"\x7felf",), "is a program, not a model"),
    _Known((b"\x89png", b"\xff\xd8\xff", b"gif8"), "is a picture, not a model"),
)


def foreign_kind(head: bytes) -> str | None:
    """The message for a file that is known and no source, None for all others."""
    lowered = head.lower()
    for known in _FOREIGN:
        if lowered[known.at :].lstrip(_BLANKS if known.at == 0 else b"").startswith(known.starts):
            return known.message
    if head[:1] == b"\x80" and b"cjoblib.numpy_pickle\n" in head:
        return "is a joblib file, not a PyTorch model; load it with joblib and save its arrays with torch.save"
    if head[:1] == b"\x08" and len(head) > 3 and head[1] < 32 and head[2] in _PROTOBUF:
        return "is an exported graph (ONNX, Core ML or TensorFlow); compress the PyTorch model that it was made from"
    if _is_msgpack(head):
        return "is a msgpack file (Flax, spaCy?), no PyTorch model; load it there and save its arrays with torch.save"
    return None


def _is_msgpack(head: bytes) -> bool:
    """Whether it begins with a small map whose first key is a short name."""
    if len(head) < 3 or not 0x81 <= head[0] <= 0x8F or not 0xA1 <= head[1] <= 0xBF:
        return False
    name = head[2 : 2 + head[1] - 0xA0]
    return len(name) == head[1] - 0xA0 and name.isascii() and name.decode("ascii").isidentifier()


def is_text(head: bytes) -> bool:
    """Whether the beginning of a file is readable text."""
    try:
        head[:-4].decode("utf-8") if len(head) > 64 else head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 8:
            return False
    return sum(byte in _TEXT or byte >= 0x80 for byte in head) == len(head)


def is_file_in_bytes(data: bytes | bytearray) -> bool:
    """Whether bytes among plain values look like a saved model themselves."""
    return data.startswith(ZIP) or (data[:1] == b"\x80" and data[-1:] == b"." and len(data) > _MUCH)

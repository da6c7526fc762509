"""The safetensors header: built, and read back without trusting a byte of it."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch

from hmcompress.container.squeeze import unique_keys
from hmcompress.element_types import EVERY_SAFETENSORS, SAFETENSORS
from hmcompress.errors import FormatError
from hmcompress.geometry import elements

FORMAT = "hmcompress"
VERSION = "1"
DIGEST_BYTES = 8
POOL = "hmcompress"  # the tensor that holds the index and every layer's payload
RESERVED = frozenset({"__metadata__", POOL})

_LEAD = f'{{"__metadata__":{{"format":"{FORMAT}","version":"'
_START = f'{_LEAD}{VERSION}","digest":"'
DIGEST_AT = 8 + len(_START)  # the digest's hex lies at a fixed place in the file
DIGEST_END = DIGEST_AT + 2 * DIGEST_BYTES
_BLANK = b"0" * (2 * DIGEST_BYTES)
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors library
_DTYPES = {code: dtype for dtype, code in SAFETENSORS.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of the safetensors file; `begin` and `end` count from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


def build_header(entries: Mapping[str, tuple[torch.dtype, Sequence[int], int]]) -> tuple[bytes, list[str]]:
    """The first bytes of the file, digest blank, and the order in which the entries' bytes follow.

    `entries` maps a name to (dtype, shape, bytes) in the order of the header.
    """
    header, begin = header_and_places(f'{_START}{_BLANK.decode()}"}}', entries)
    return header, list(begin)


def header_and_places(
    lead: str, entries: Mapping[str, tuple[torch.dtype, Sequence[int], int]]
) -> tuple[bytes, dict[str, int]]:
    """A header behind its length, padded; where each entry's bytes begin behind it: by falling element size, so that
    every tensor is aligned. lead: the JSON up to the entries, which are (dtype, shape, bytes) by name."""
    begin, at, text = dict[str, int](), 0, lead
    for name in sorted(entries, key=lambda name: -entries[name][0].itemsize):
        begin[name] = at
        at += entries[name][2]
    for name, (dtype, shape, nbytes) in entries.items():
        offsets = [begin[name], begin[name] + nbytes]
        entry = {"dtype": EVERY_SAFETENSORS[dtype], "shape": list(shape), "data_offsets": offsets}
        text += f",{json.dumps(name)}:{json.dumps(entry, separators=(',', ':'))}"
    body = f"{text}}}".encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body, begin


def parse_header(data: memoryview) -> dict[str, Entry]:
    """Check the header and the digest of a whole file; returns the entries in the header's order.

    Raises FormatError where the bytes are anything but an undamaged file of this version.
    """
    text = _header_text(data)
    if not text.startswith(_LEAD.encode()):
        raise FormatError(_foreign(text))
    version = text[len(_LEAD) : len(_LEAD) + 20].split(b'"')[0].decode("ascii", "replace")
    if not text.startswith(_START.encode()):
        raise FormatError(f"format version {version[:20]!r} is unknown to this release (it reads {VERSION}): upgrade")
    return _entries(_load_json(text), 8 + len(text), len(data))


def is_compressed(path: str | os.PathLike) -> bool:
    """Whether a file starts like one that hmcompress wrote; a pipe is not opened, as it may never answer."""
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read(8 + len(_LEAD))[8:] == _LEAD.encode()
    return False


def file_digest(data: memoryview) -> str:
    """The digest of a file: blake2b over all its bytes, the digest's own hex read as zeros."""
    state = blake2b(data[:DIGEST_AT], digest_size=DIGEST_BYTES)
    state.update(_BLANK)
    state.update(data[DIGEST_END:])
    return state.hexdigest()


def stored_digest(data: memoryview) -> str:
    """The digest that the file states."""
    return bytes(data[DIGEST_AT:DIGEST_END]).decode("ascii", "replace")


def _header_text(data: memoryview) -> bytes:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or bytes(data[8:9]) != b"{" or not 2 <= size <= _LARGEST_HEADER:
        raise FormatError("not a compressed model: it does not start like a safetensors file")
    if size > len(data) - 8:
        raise FormatError(f"a header of {size} bytes in a file of {len(data)}: it is cut off or damaged")
    return bytes(data[8 : 8 + size])


def _foreign(text: bytes) -> str:
    if f'"format":"{FORMAT}"'.encode() in text:
        return "written again by another tool, which moved its parts: use the original compressed file"
    return "a safetensors file, but not a compressed one: compress it first (hmcompress compress)"


def _load_json(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text.decode(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):
        raise FormatError("the header is not valid JSON: the file is damaged") from None
    return document


def _entries(document: dict[str, Any], start: int, size: int) -> dict[str, Entry]:
    entries = {name: _entry(name, value, start) for name, value in document.items() if name != "__metadata__"}
    at = start
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != at:
            raise FormatError("the header's tensors overlap or leave gaps: the file is damaged")
        at = entry.end
    if at != size:
        raise FormatError(f"the header accounts for {at} bytes, the file has {size}: it is cut off or damaged")
    return entries


def _entry(name: str, value: Any, start: int) -> Entry:
    try:
        dtype, shape, (begin, end) = _DTYPES[value["dtype"]], value["shape"], value["data_offsets"]
        whole = all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole or end - begin != elements(shape) * dtype.itemsize:
        raise FormatError(f"the header's entry {name[:80]!r} contradicts itself: the file is damaged")
    return Entry(dtype, tuple(shape), start + begin, start + end)

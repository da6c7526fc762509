"""The index as few bytes: JSON text, deflated or by zstd against a dictionary, behind a byte that says which."""

import json
import zlib
from typing import Any

import zstandard

from hmcompress.container.dictionary import DICTIONARY
from hmcompress.errors import FormatError

STORED, DEFLATE, ZSTD = range(3)
_LEAST_LIMIT = 4 << 20
_MOST_GROWTH = 100
_LONG = 1 << 20


def pack_json(document: Any) -> bytes:
    """Encode plain JSON values (nan and inf allowed, as Python's json writes them) compactly."""
    text = json.dumps(document, separators=(",", ":")).encode()
    candidates = [(STORED, text), (ZSTD, _zstd(text))]
    if len(text) <= _LONG:  # of more, zstd's window sees further, and deflating takes long
        candidates.append((DEFLATE, _deflate(text)))
    code, body = min((c for c in candidates if len(text) <= _limit(len(c[1]))), key=lambda c: len(c[1]))
    return bytes([code]) + body


def unpack_json(data: bytes) -> Any:
    """The inverse of pack_json; raises FormatError, and never unpacks to more than the format allows."""
    text = _unpack(data[0] if data else -1, data[1:], _limit(len(data) - 1))
    try:
        return json.loads(text.decode(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError, MemoryError):
        raise FormatError("the index is not valid JSON: the file is damaged") from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a repeated key, which two readers could take differently, raises ValueError."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is repeated")
    return document


def _limit(packed: int) -> int:
    """The most text that `packed` bytes may unpack to. What squeezes better than this is stored larger."""
    return _LEAST_LIMIT + _MOST_GROWTH * packed


def _deflate(text: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zdict=DICTIONARY)
    return deflater.compress(text) + deflater.flush()


def _zstd(text: bytes) -> bytes:
    level = 19 if len(text) <= _LONG else 12
    return zstandard.ZstdCompressor(level=level, dict_data=_zstd_dictionary()).compress(text)


def _zstd_dictionary() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _unpack(code: int, body: bytes, limit: int) -> bytes:
    if code == STORED:
        return body
    if code not in (DEFLATE, ZSTD):
        raise FormatError("the index is coded in an unknown way: the file is damaged or newer than this release")
    try:
        text = _inflate(body, limit) if code == DEFLATE else _unzstd(body, limit)
    except (zlib.error, zstandard.ZstdError, MemoryError):
        text = None
    if text is None:
        raise FormatError("the index does not decode: the file is damaged")
    return text


def _inflate(body: bytes, limit: int) -> bytes | None:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS, zdict=DICTIONARY)
    text = inflater.decompress(body, limit)
    return text if inflater.eof and not inflater.unused_data else None


def _unzstd(body: bytes, limit: int) -> bytes | None:
    size = zstandard.frame_content_size(body)
    if not 0 <= size <= limit:
        return None
    decoder = zstandard.ZstdDecompressor(dict_data=_zstd_dictionary())
    text = decoder.decompress(body, max_output_size=size, allow_extra_data=False)
    return text if len(text) == size else None

"""LZMA, as xz has it: where integers repeat, a fifth to a third less than zstd's highest level makes, in the same time.

It is decoded at some ten megabytes a second, which the few bytes of such layers allow.
"""

from hmcompress.errors import FormatError

try:
    import lzma
except ImportError:  # a Python that was built without it writes zstd, and reads that
    lzma = None  # type: ignore[assignment]

AVAILABLE = lzma is not None
_LEAST, _MOST = 1 << 12, 1 << 23  # bytes of the window
_LITERALS = {1: (3, 0, 2), 2: (0, 1, 1), 4: (0, 2, 2), 8: (0, 3, 3)}  # bits of the byte before, of the place, of both


def lzma_compress(data: bytes, width: int) -> bytes:
    """One LZMA2 stream of numbers of `width` bytes; only where AVAILABLE."""
    context, literal, place = _LITERALS[width]
    how = {"preset": 9 | lzma.PRESET_EXTREME, "lc": context, "lp": literal, "pb": place}
    return lzma.compress(data, lzma.FORMAT_RAW, filters=[{**_filter(len(data)), **how}])


def lzma_decompress(body: bytes, size: int) -> bytes:
    """Decode a stream that must hold exactly `size` bytes; no more memory is taken. Raises FormatError."""
    if not AVAILABLE:
        raise FormatError("this layer needs lzma, which this Python was built without")
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_filter(size)])
    try:
        data = decoder.decompress(body, size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise FormatError(f"an LZMA stream does not decode: the file is damaged ({error})") from None
    if len(data) != size or not decoder.eof or decoder.unused_data:
        raise FormatError(f"an LZMA stream does not hold the {size} bytes expected: the file is damaged")
    return data


def _filter(size: int) -> dict[str, int]:
    """The window, as large as the data; a reader needs no more to know."""
    window = min(max(1 << max(size - 1, 1).bit_length(), _LEAST), _MOST)
    return {"id": lzma.FILTER_LZMA2, "dict_size": window}

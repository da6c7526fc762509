"""The table of payload codecs: a payload's first byte names its codec."""

from collections.abc import Callable

import torch

from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics import exact
from hmcompress.hmatrix.basics.bodies import Body, QuantizedBody
from hmcompress.hmatrix.grids import compact, product, weighted
from hmcompress.hmatrix.patterns import interpolated, lattice, listed, short_floats, tiles, trellis
from hmcompress.hmatrix.tree import tree

Decoder = Callable[[bytes, tuple[int, int], torch.dtype], Body]

EXACT, TREE, WEIGHTED, LATTICE, TRELLIS, COMPACT, INTERPOLATED, PRODUCT, TILED, SHORT_FLOATS, LISTED = range(11)


def _decode_tiled(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    tile, inner, payload = tiles.read_tile(data, shape)
    if payload[:1] == bytes([TILED]):
        raise FormatError("tiles hold tiles: the file is damaged")
    return QuantizedBody(tiles.from_tiles(decode_payload(payload, inner, dtype).to_dense().to(dtype), shape, tile))


def _decode_listed(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    inner, payload, index, transposed = listed.read_lists(data, shape)
    if payload[:1] == bytes([LISTED]):
        raise FormatError("lists hold lists: the file is damaged")
    values = decode_payload(payload, inner, dtype).to_dense().to(dtype)
    return QuantizedBody(listed.from_lists(values, index, transposed))


CODECS: dict[int, Decoder] = {
    EXACT: exact.decode,
    TREE: tree.decode,
    WEIGHTED: weighted.decode,
    LATTICE: lattice.decode,
    TRELLIS: trellis.decode,
    COMPACT: compact.decode,
    INTERPOLATED: interpolated.decode,
    PRODUCT: product.decode,
    TILED: _decode_tiled,
    SHORT_FLOATS: short_floats.decode,
    LISTED: _decode_listed,
}


def decode_payload(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> Body:
    """Decode a payload for a (m, n) matrix. Raises FormatError where it is damaged or of an unknown codec."""
    if not payload:
        raise FormatError("a layer's payload is empty: the file is damaged")
    decoder = CODECS.get(payload[0])
    if decoder is None:
        raise FormatError(f"layer codec {payload[0]} is unknown: the file is damaged or newer than this release")
    return decoder(payload[1:], shape, dtype)

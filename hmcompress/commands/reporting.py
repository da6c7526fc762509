"""The report of a compression, from what was coded, or read back from the file."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hmcompress.container import CompressedFile, EncodedLayer, LayerRow, PackedTensor
from hmcompress.container.document import LARGEST
from hmcompress.element_types import dtype_name
from hmcompress.errors import FormatError
from hmcompress.geometry import elements
from hmcompress.report.records import (
    LayerRecord,
    Leaves,
    NetworkRecord,
    OtherRecord,
    Report,
    with_floats,
)
from hmcompress.settings.config import Settings

_MUCH = 1 << 16  # bytes that are worth a remark


class Tally:
    """Takes in the parts of a file as they are coded, and forgets their bytes."""

    def __init__(
        self, network: NetworkRecord | None = None, notes: Iterable[str] = (), said: Iterable[str] = ()
    ) -> None:
        self.layers: list[LayerRecord] = []
        self.notes = list(notes)
        self.said = tuple(said)  # notes that the file does not keep
        self.network = network
        self.other = OtherRecord()
        self.peak_rss_bytes = 0  # of the processes that coded layers, whichever was the largest
        self.kept_bytes: Counter[str] = Counter()  # stored, of tensors that are no layers, by the start of their names

    def add(self, part: EncodedLayer | PackedTensor) -> None:
        """Count one part."""
        if isinstance(part, EncodedLayer):
            dtype = dtype_name(part.dtype)
            nbytes = sum(map(elements, part.shapes)) * part.dtype.itemsize
            record = _layer(part.row, part.shapes[0], dtype, nbytes, len(part.payload), part.seconds)
            self.layers.append(record)
            self.peak_rss_bytes = max(self.peak_rss_bytes, part.peak_rss_bytes)
            self.notes += [part.note] if part.note else []
        else:
            nbytes = elements(part.shape) * part.dtype.itemsize
            self.other = _plus(self.other, nbytes, len(part.body))
            self.kept_bytes[part.name.split(".")[0]] += len(part.body)


def mostly_kept(tally: Tally) -> tuple[str, ...]:
    """A line where most of what is stored are no layers: dropping some may save more than any tolerance."""
    stored = tally.other.stored_bytes + sum(layer.stored_bytes for layer in tally.layers)
    if tally.other.stored_bytes < max(_MUCH, stored / 2):
        return ()
    start, nbytes = tally.kept_bytes.most_common(1)[0]
    most = f", {nbytes:,} bytes of them named {start}..." if nbytes > tally.other.stored_bytes / 10 else ""
    return (
        f"{tally.other.stored_bytes / stored:.0%} of what is stored are tensors kept lossless{most}: "
        "--drop leaves tensors out, --include makes small matrices and long vectors layers",
    )


def stored_record(record: NetworkRecord) -> dict[str, Any]:
    """The record as the compressed file holds it: five digits, without curves."""
    data = record.to_json()
    if data["ntk"] is not None:
        data["ntk"] = {key: value for key, value in data["ntk"].items() if key not in ("spectra", "training")}
    given = {key: value for key, value in data.items() if value is not None and value != ()}
    return with_floats(given, lambda number: float(f"{number:.4g}"))


def read_report(file: str | os.PathLike) -> Report:
    """The report of a compressed file. Raises FormatError."""
    compressed = CompressedFile.open(file)
    index = compressed.index
    sizes = {part.tensors[0]: part.nbytes for part in compressed.parts()}
    settings = Settings.from_json(index.info.settings)
    return Report(
        command="report",
        source=str(index.info.source.get("name", "")),
        output=str(file),
        source_bytes=_whole(index.info.source.get("bytes")),
        output_bytes=compressed.nbytes,
        tol=settings.tol,
        norm=settings.norm,
        metric=settings.metric,
        layers=tuple(
            _layer(row, index.shapes[row.name], dtype_name(index.dtypes[row.name]), sizes[row.name], row.nbytes)
            for row in compressed.layers
        ),
        other=_other(compressed),
        left_behind=index.info.left_behind,
        notes=index.info.notes,
        network=network_from_json(index.info.network),
    )


def _other(compressed: CompressedFile) -> OtherRecord:
    """What is no layer."""
    other = OtherRecord()
    for part in compressed.parts():
        if part.tensors[0] not in compressed.layer_of:
            other = _plus(other, part.nbytes, compressed.stored_bytes(part.tensors[0]))
    return other


def network_from_json(data: Any) -> NetworkRecord | None:
    """The network's record as the file holds it, without what later releases may add; raises FormatError."""
    try:
        return None if data is None else TypeAdapter(NetworkRecord).validate_json(json.dumps(data), strict=True)
    except (ValidationError, RecursionError):
        raise FormatError("the index's record of the network makes no sense: the file is damaged") from None


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 <= value < LARGEST else 0


def _plus(other: OtherRecord, source_bytes: int, stored_bytes: int) -> OtherRecord:
    return OtherRecord(other.tensors + 1, other.source_bytes + source_bytes, other.stored_bytes + stored_bytes)


def _layer(
    row: LayerRow, shape: Iterable[int], dtype: str, source_bytes: int, stored_bytes: int, seconds: float = 0.0
) -> LayerRecord:
    return LayerRecord(
        name=row.name,
        shape=tuple(shape),
        dtype=dtype,
        source_bytes=source_bytes,
        stored_bytes=stored_bytes,
        tol=row.tol,
        error=row.error,
        max_abs_error=row.max_abs_error,
        method=row.method,
        leaves=Leaves(**row.leaves),
        max_rank=row.max_rank,
        seconds=seconds,
        norm=row.norm,
    )

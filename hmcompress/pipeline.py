"""Compress, restore, report, verify: each reads as the data flows.

Rooms that only some commands enter (networks, other compressors, modules that run) are imported where they are used:
they and what they need (scipy.stats, numba) take longer to load than a small model takes to compress.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from hmcompress.checkpoint import Checkpoint, open_checkpoint
from hmcompress.commands.encoding import Each, EncodedPart, encode_rest, encode_ruled, encode_weights, kept_complex
from hmcompress.commands.reporting import Tally, mostly_kept, read_report, stored_record
from hmcompress.commands.restoring import decompress, load_checkpoint, load_state_dict
from hmcompress.commands.target import tolerance_for_ratio
from hmcompress.commands.verifying import check_layers, check_network, network_settings
from hmcompress.container import CompressedFile, FileInfo, FileWriter, check_output, is_compressed
from hmcompress.errors import SettingsError, SourceError
from hmcompress.geometry import elements
from hmcompress.hmatrix.basics.surroundings import undisturbed
from hmcompress.layers import select
from hmcompress.report.comparisons import CompareReport
from hmcompress.report.records import Report
from hmcompress.report.verdicts import VerifyReport
from hmcompress.settings.config import Settings, check_files, load_settings
from hmcompress.settings.rules import check_patterns, dropped, with_quick_patterns
from hmcompress.texts import check_name
from hmcompress.work.memory import peak_rss_bytes
from hmcompress.work.parallel import Later
from hmcompress.work.progress import Progress, silent

__all__ = ["compare", "compress", "decompress", "load_checkpoint", "load_state_dict", "read_report", "report", "verify"]

SUFFIX = ".hmc.safetensors"
_WEIGHTS_ALONE = (
    "the tolerance bounds the weights; the network is kept for load_model and export: metric outputs bounds it"
)
_SOURCE_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".tar", ".jit", ".safetensors", ".index", ".json", ".model"}
_SOURCE_SUFFIXES |= {".pkl", ".pickle", ".npz", ".pt2", ".zip", ".gz", ".tgz", ".nemo", ".mdlus"}

report = read_report  # the command's name; the package has a room of the same name


@undisturbed
def compress(
    source: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    settings: Settings | None = None,
    config: str | os.PathLike | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Report:
    """Compress a checkpoint into a file, `<stem>.hmc.safetensors` beside it unless `output` says otherwise.

    `settings`, or a YAML file `config` and `options` of the same names, which win. Raises HMCompressError.
    """
    start = time.perf_counter()
    settings = _settings(settings, config, options)
    checkpoint, settings = _opened(source, settings)
    target = default_output(source) if output is None else output
    if not dry_run:
        check_output(target, force, (source, *checkpoint.files))
    settings = _with_tolerance(checkpoint, settings, progress)
    tally, output_bytes = write_file(None if dry_run else Path(target), checkpoint, settings, force, progress)
    return Report(
        command="compress",
        source=str(source),
        output=str(target),
        source_bytes=checkpoint.source_bytes,
        output_bytes=output_bytes,
        tol=settings.tol,
        norm=settings.norm,
        metric=settings.metric,
        layers=tuple(tally.layers),
        other=tally.other,
        left_behind=checkpoint.left_behind,
        notes=(*tally.said, *tally.notes),
        network=tally.network,
        seconds=time.perf_counter() - start,
        peak_rss_bytes=max(peak_rss_bytes(), tally.peak_rss_bytes),
    )


def write_file(
    target: Path | None, checkpoint: Checkpoint, settings: Settings, force: bool, progress: Progress
) -> tuple[Tally, int]:
    """Code every tensor and write the file (None: only count); returns what was coded, and the file's bytes."""
    digest = Later(lambda: checkpoint.digest)
    parts, tally = _coded(checkpoint, settings, progress, digest.start)
    with FileWriter(target, force=force) as writer:
        for part in parts:
            writer.add(part)
            tally.add(part)
        tally.notes += mostly_kept(tally)
        info = _info(checkpoint, digest.result(), settings, tally)
        checkpoint.check_unchanged()
        return tally, writer.finish(info)


def _coded(
    checkpoint: Checkpoint, settings: Settings, progress: Progress, near_end: Callable[[], None]
) -> tuple[Iterable[EncodedPart], Tally]:
    """The parts of the file: every tensor by itself, or the network's layers together and then the other tensors."""
    if settings.metric == "weights":
        parts = encode_weights(checkpoint, settings, progress, near_end)
        said = () if settings.network is None else (_WEIGHTS_ALONE,)
        return parts, Tally(notes=kept_complex(checkpoint, settings), said=said)
    from hmcompress.network import compress_network

    ruled = encode_ruled(checkpoint, settings)
    result = compress_network(checkpoint, settings, progress, Each(checkpoint, settings), ruled)
    rest = encode_rest(checkpoint, result.tensors, settings, progress, near_end)
    return chain(result.layers, rest), Tally(result.record, result.notes, result.said)


@undisturbed
def verify(
    file: str | os.PathLike,
    against: str | os.PathLike | None = None,
    *,
    tol: float | None = None,
    network: str | None = None,
    inputs: str | None = None,
    progress: Progress = silent,
) -> VerifyReport:
    """Check a file: structure, checksums, everything decodes, and every bound holds.

    With `against` every error is recomputed in float64, and untouched tensors and ties are compared with the
    source; the error of a network is recomputed on the held-out points of the stored seed and on fresh ones.
    `network` and `inputs` name a factory and a file in place of the stored ones. `tol` replaces the stored bounds.
    Raises FormatError for a damaged file, SourceError, NetworkError.
    """
    load_settings(None, {"tol": tol})
    check_name(file if against is None else against, SourceError)
    compressed = CompressedFile.open(file)
    settings = network_settings(compressed, against, tol, network, inputs)
    layers = tuple(check_layers(compressed, against, None if settings else tol, progress))
    if settings is None:
        return VerifyReport(layers)
    return VerifyReport(layers, check_network(compressed, settings, against, progress))


@undisturbed
def compare(
    source: str | os.PathLike,
    tols: Sequence[float] = (1e-2, 1e-3, 1e-4),
    *,
    settings: Settings | None = None,
    config: str | os.PathLike | None = None,
    progress: Progress = silent,
    **options: Any,
) -> CompareReport:
    """Ours beside other compressors at the same measured error, layer by layer and in all.

    Settings as for `compress`; `tols` beats their tolerances. Raises HMCompressError.
    """
    settings = _settings(settings, config, options)
    checkpoint, settings = _opened(source, settings)
    if settings.metric == "outputs":
        from hmcompress.commands.compare_outputs import compare_outputs

        return compare_outputs(checkpoint, tols, settings, progress)
    from hmcompress.commands.compare import compare_weights

    return compare_weights(checkpoint, tols, settings, progress)


def default_output(source: str | os.PathLike) -> Path:
    """`<stem>.hmc.safetensors` beside the source."""
    path = Path(source) if Path(source).name not in ("", "..") else Path(source).resolve()
    stem = path.name
    while not path.is_dir() and Path(stem).suffix.lower() in _SOURCE_SUFFIXES:
        stem = Path(stem).stem
    return path.with_name(stem + SUFFIX)


def _settings(settings: Settings | None, config: str | os.PathLike | None, options: dict[str, Any]) -> Settings:
    if settings is None:
        settings = load_settings(config, options)
    elif config is not None or options:
        raise SettingsError(
            f"give settings, or config and options, not both (got {', '.join(options) or 'config'} too)"
        )
    if not _has_device(settings.device):
        raise SettingsError(f"device {settings.device} is not on this machine: use cpu")
    return settings


def _has_device(name: str) -> bool:
    device = torch.device(name)
    if device.type == "cpu":
        return True
    module = torch.get_device_module(device)
    return module.is_available() and (device.index or 0) < module.device_count()


def _opened(source: str | os.PathLike, settings: Settings) -> tuple[Checkpoint, Settings]:
    """The checkpoint without what `drop` names, and the settings without patterns that are slow to match again."""
    check_name(source, SourceError)
    if is_compressed(source):
        raise SourceError(f"{source} is compressed already: decompress it first, or name the original")
    checkpoint = open_checkpoint(source)
    check_patterns(checkpoint.names, settings)
    check_files(settings)
    left = without(checkpoint, dropped(checkpoint.names, settings))
    return left, with_quick_patterns(settings, checkpoint.names)


def without(checkpoint: Checkpoint, names: tuple[str, ...]) -> Checkpoint:
    """The same checkpoint with some tensors left out; what a remaining tie needs stays."""
    if checkpoint.names and len(names) == len(checkpoint.names):
        raise SettingsError(f"drop names every tensor of {checkpoint.path}: nothing is left to compress")
    named = set(names)
    out = named - {tie.base for name, tie in checkpoint.ties.items() if name not in named}
    nbytes = sum(checkpoint.entries[name].nbytes for name in out if name in checkpoint.entries)
    told = (f"{len(out)} tensor{'s' * (len(out) > 1)}, {nbytes:,} bytes: dropped on request",) if out else ()
    return replace(
        checkpoint,
        names=tuple(name for name in checkpoint.names if name not in out),
        entries={name: entry for name, entry in checkpoint.entries.items() if name not in out},
        ties={name: tie for name, tie in checkpoint.ties.items() if name not in out},
        left_behind=(*checkpoint.left_behind, *told),
    )


def _with_tolerance(checkpoint: Checkpoint, settings: Settings, progress: Progress) -> Settings:
    """The settings with the tolerance that reaches the target ratio, where one is set."""
    if settings.target_ratio is None:
        return settings

    def size(tol: float) -> int:
        return write_file(None, checkpoint, settings.model_copy(update={"tol": tol}), False, progress)[1]

    weights = sum(
        elements(checkpoint.entries[name].shape) for name in select(checkpoint.entries, settings, checkpoint.ties)
    )
    tol = tolerance_for_ratio(size, checkpoint.source_bytes, settings.target_ratio, weights)
    return settings.model_copy(update={"tol": tol})


def _info(checkpoint: Checkpoint, digest: str, settings: Settings, tally: Tally) -> FileInfo:
    return FileInfo(
        names=checkpoint.names,
        views=checkpoint.ties,
        source={
            "name": checkpoint.path.name,
            "kind": checkpoint.kind,
            "bytes": checkpoint.source_bytes,
            "digest": digest,
        },
        settings=settings.to_json(),
        nest=checkpoint.nest,
        metadata=checkpoint.metadata,
        left_behind=checkpoint.left_behind,
        notes=tuple(tally.notes),
        network=None if tally.network is None else stored_record(tally.network),
    )

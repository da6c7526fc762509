"""The weights metric: every tensor by itself, a pure function of its name, its values and the settings."""

import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from hmcompress.checkpoint import Checkpoint, TensorEntry
from hmcompress.commands.likes import find_bases
from hmcompress.commands.standing import Like, Standing, matrix_of, stacked, standing
from hmcompress.container import EncodedLayer, LayerRow, PackedTensor, join, pack_tensor
from hmcompress.hmatrix import HMatrix, compress_matrix, keep_matrix
from hmcompress.layers import REAL_PARTS, is_dense, is_optimizer_state, real_layout, select, to_matrices
from hmcompress.settings.config import LayerRule, Settings
from hmcompress.settings.rules import has_own_tolerance
from hmcompress.work.memory import peak_rss_bytes
from hmcompress.work.parallel import in_order, nothing
from hmcompress.work.progress import Progress, silent
from hmcompress.work.tasks import Task

EncodedPart = EncodedLayer | PackedTensor
Coded = HMatrix | Standing
_MANY_COMPLEX = 0.1  # of the source's bytes
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of one of many layers
_ANY = 1e-3  # a tolerance
_FIRST = 256  # numbers, of which one tells that most tensors are no masks
_STANDING_TAKES = 4  # times the memory of a layer by itself


def encode_weights(
    checkpoint: Checkpoint, settings: Settings, progress: Progress, near_end: Callable[[], None]
) -> Iterator[EncodedPart]:
    """Every stored tensor, as a coded layer or untouched, in the source's order.

    near_end: called, maybe often, when the last ones may be begun.
    """
    rules = select(checkpoint.entries, settings, checkpoint.ties)
    return _encode(checkpoint, rules, (), settings, progress, near_end)


@dataclass(frozen=True)
class Each:
    """Tensors by themselves, for networks whose outputs are bounded: each to an error of its own."""

    checkpoint: Checkpoint
    settings: Settings

    @cached_property
    def alike(self) -> dict[str, str]:
        """Dense layers that may stand on another one, where their tolerances are the same, and on which."""
        entries = self.checkpoint.entries
        dense = (e for e in entries.values() if is_dense(e.shape, e.dtype) and not is_optimizer_state(e.name))
        return find_bases(entries, {e.name: _rule(_ANY) for e in dense})

    def code(self, tolerances: Mapping[str, float]) -> tuple[EncodedLayer, ...]:
        """Those that have a relative Frobenius error, for a file whose layers these are."""
        entries = self.checkpoint.entries
        rules = {name: _rule(tolerances[name]) for name in entries if name in tolerances}
        parts = _encode(self.checkpoint, rules, entries.keys() - rules, _thorough(self.settings), silent, nothing)
        return tuple(replace(part, row=replace(part.row, tol=None)) for part in parts if isinstance(part, EncodedLayer))


def encode_ruled(checkpoint: Checkpoint, settings: Settings) -> tuple[EncodedLayer, ...]:
    """Tensors to which a rule gives a tolerance of their own, by themselves: the outputs' is that of all others."""
    rules = select(checkpoint.entries, settings, checkpoint.ties)
    own = {name: rule for name, rule in rules.items() if has_own_tolerance(rule, settings)}
    return tuple(encode_layer(n, checkpoint.entries[n].load(), rule, settings.effort) for n, rule in own.items())


def _rule(tol: float) -> LayerRule:
    return LayerRule(match="*", tol=tol, norm="fro")


def _thorough(settings: Settings) -> Settings:
    """At effort default at least: coding is the least part of what a network takes."""
    return settings.model_copy(update={"effort": "default"}) if settings.effort == "fast" else settings


def kept_complex(checkpoint: Checkpoint, settings: Settings) -> tuple[str, ...]:
    """A line about large complex tensors that no rule names: they could be layers."""
    rules = select(checkpoint.entries, settings, checkpoint.ties)
    kept = [e for e in checkpoint.entries.values() if e.dtype in REAL_PARTS and e.name not in rules]
    nbytes = sum(e.nbytes for e in kept)
    if nbytes < _MANY_COMPLEX * checkpoint.source_bytes:
        return ()
    named = f"{kept[0].name} and {len(kept) - 1} more complex tensors" if len(kept) > 1 else kept[0].name
    rule = f'{{match: "{_NUMBER.sub("*", kept[0].name)}"}}'
    return (f"{named}, {nbytes:,} bytes: complex, kept lossless; a rule bounds them too: layers: [{rule}] in --config",)


def encode_rest(
    checkpoint: Checkpoint,
    done: Collection[str],
    settings: Settings,
    progress: Progress,
    near_end: Callable[[], None],
) -> Iterator[EncodedPart]:
    """The tensors that are not `done` yet, untouched. near_end: as for encode_weights."""
    return _encode(checkpoint, {}, done, settings, progress, near_end)


def encode_layer(
    name: str, tensor: Tensor, rule: LayerRule, effort: str = "default", like: Like | None = None
) -> EncodedLayer:
    """Code a tensor as a layer; each slice of a stack keeps the tolerance by itself.

    like: another layer, of the same shape, on which this one may stand.
    """
    start = time.perf_counter()
    assert rule.tol is not None and rule.norm is not None
    matrices = to_matrices(tensor)
    kernel = real_layout(tensor.shape, tensor.dtype).kernel
    kept = partial(keep_matrix, norm=rule.norm, effort=effort, kernel=kernel)
    if _is_mask(matrices):
        alone = _coded_once(matrices, kept)
    else:
        coded = partial(compress_matrix, tol=rule.tol, norm=rule.norm, effort=effort, grid=rule.grid, kernel=kernel)
        alone = _coded_once(matrices, coded)
    lossy = all(matrix.method == "hmatrix" for matrix in alone)  # then every error is known, and finite
    finite = lossy or _is_finite(matrices)
    if not finite and len(alone) > 1:  # the other slices too
        alone = _coded_once(matrices, kept)
    slices = _on_others(matrices, alone, rule, effort, kernel, like) if lossy else alone
    row = LayerRow(
        tensors=(name,),
        tol=rule.tol,
        norm=rule.norm,
        error=max(matrix.error for matrix in slices),
        max_abs_error=max(matrix.max_abs_error for matrix in slices),
        method=_method(slices),
        leaves={kind: sum(matrix.leaves[kind] for matrix in slices) for kind in slices[0].leaves},
        max_rank=max(matrix.max_rank for matrix in slices),
    )
    note = "" if finite else f"{name}: holds nan or inf, kept lossless"
    payload = join([matrix.payload for matrix in slices])
    seconds, peak = time.perf_counter() - start, peak_rss_bytes()
    return EncodedLayer(row, payload, (tuple(tensor.shape),), tensor.dtype, seconds, note, peak)


def _coded_once(matrices: Tensor, coded: Callable[[Tensor], HMatrix]) -> list[HMatrix]:
    """Every slice coded, those that are the same once: masks of windows are few among many."""
    if len(matrices) == 1:
        return [coded(matrices[0])]
    known: dict[bytes, HMatrix] = {}
    found = []
    for w in matrices:
        digest = blake2b(w.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).digest()
        found.append(known[digest] if digest in known else known.setdefault(digest, coded(w)))
    return found


def _on_others(
    matrices: Tensor, alone: list[HMatrix], rule: LayerRule, effort: str, kernel: int, like: Like | None
) -> Sequence[Coded]:
    """The same on top of other slices, or of another layer, where that takes clearly less."""
    if like is not None:
        return [standing(matrices[0], like, rule, effort, kernel, alone[0].nbytes) or alone[0]]
    return stacked(matrices, alone, rule, effort) if effort != "fast" else alone


def _is_mask(tensor: Tensor) -> bool:
    """Whether a tensor is zeros and ones, and not zeros alone: which weights are there is no matter of precision."""
    few = tensor.reshape(-1)[:_FIRST]
    return all(bool(((part == 0) | (part == 1)).all()) for part in (few, tensor)) and bool(tensor.any())


def _is_finite(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or all(math.isfinite(float(end)) for end in torch.aminmax(tensor))


def _method(slices: Sequence[Coded]) -> str:
    methods = {matrix.method for matrix in slices}
    return methods.pop() if len(methods) == 1 else "hmatrix"


def _encode(
    checkpoint: Checkpoint,
    rules: Mapping[str, LayerRule],
    done: Collection[str],
    settings: Settings,
    progress: Progress,
    near_end: Callable[[], None],
) -> Iterator[EncodedPart]:
    entries = {name: entry for name, entry in checkpoint.entries.items() if name not in done}
    bases = {} if settings.effort == "fast" else find_bases(entries, rules)
    first = {name: entries[name] for name in bases.values()}
    later = {name: entry for name, entry in entries.items() if name not in first}
    total = sum(entry.nbytes for entry in entries.values())
    known = dict(zip(first, _coded(first, rules, settings, {}, progress, (0, total)), strict=True))
    numbers = {name: number for number, name in enumerate(rules)}
    likes = {name: Like(numbers[base], partial(matrix_of, known[base])) for name, base in bases.items()}
    done_bytes = sum(entry.nbytes for entry in first.values())
    rest = _coded(later, rules, settings, likes, progress, (done_bytes, total), near_end)
    for name in entries:
        yield known.pop(name) if name in known else next(rest)
    yield from rest  # nothing is left, which it has to notice


def _coded(
    entries: Mapping[str, TensorEntry],
    rules: Mapping[str, LayerRule],
    settings: Settings,
    likes: Mapping[str, Like],
    progress: Progress,
    done: tuple[int, int],
    near_end: Callable[[], None] = nothing,
) -> Iterator[Any]:
    """The parts of these tensors in their order; done: bytes before them, and of all."""
    so_far, total = done
    tasks = (
        Task(
            e.nbytes * (_STANDING_TAKES if name in likes else 1),
            e.load,
            _work(name, rules.get(name), settings.effort, likes.get(name)),
        )
        for name, e in entries.items()
    )
    parts = in_order(tasks, settings.jobs, apart=True, near_end=near_end)
    for entry, part in zip(entries.values(), parts, strict=True):
        so_far += entry.nbytes
        progress(entry.name, so_far, total)
        yield part


def _work(name: str, rule: LayerRule | None, effort: str, like: Like | None) -> Callable[[Tensor], EncodedPart]:
    if rule is None:
        return partial(pack_tensor, name, effort=effort)
    return partial(encode_layer, name, rule=rule, effort=effort, like=like)

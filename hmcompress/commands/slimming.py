"""An ordinary, smaller checkpoint: the network of a compressed file without its dead neurons."""

import io
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from hmcompress.container import CompressedFile, atomic_write
from hmcompress.network.model.modules import OperatorNetwork
from hmcompress.nn.linear import HLinear, LowRankLinear
from hmcompress.nn.load import Loaded, load
from hmcompress.work.progress import Progress, silent

_ROOTS = ("model_state_dict.", "state_dict.", "model.")
LayerSizes = list[int] | dict[str, list[int]]


def write_slim(
    file: str | os.PathLike, output: str | os.PathLike, force: bool = False, progress: Progress = silent
) -> tuple[str, ...]:
    """Write the slim network of a file whose settings name it; lines on what changed and what was left out.

    .pt holds {"state_dict": tensors under their names, "layer_sizes": neurons of each layer, inputs first}; in a
    .safetensors file the sizes are metadata. Raises FormatError, NetworkError, OutputError.
    """
    compressed, loaded = CompressedFile.open(file), load(file, slack=0, progress=progress)
    tensors, sizes = _state_dict(compressed, loaded), _layer_sizes(loaded)
    with atomic_write(output, force) as target:
        if Path(output).suffix.lower() == ".safetensors":
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            target.write(safetensors.torch.save(contiguous, {"layer_sizes": json.dumps(sizes)}))
        else:
            buffer = io.BytesIO()
            torch.save({"state_dict": tensors, "layer_sizes": sizes}, buffer)
            target.write(buffer.getvalue())
    return tuple(_lines(compressed, loaded, len(tensors)))


def _state_dict(compressed: CompressedFile, loaded: Loaded) -> dict[str, Tensor]:
    """The network's tensors by their names in the checkpoint, without the name of a state dict that holds them all."""
    own, constants = loaded.module.state_dict(), _constants(compressed)
    names = [name for name in compressed.names if name in loaded.places or name in constants]
    root = next((r for r in _ROOTS if all(name.startswith(r) for name in names)), "")
    return {
        name.removeprefix(root): own[loaded.places[name]].detach() if name in loaded.places else constants[name]
        for name in names
    }


def _layer_sizes(loaded: Loaded) -> LayerSizes:
    """Neurons of each layer, inputs first; for a DeepONet those of its branch and of its trunk."""
    after = [list(sizes.after) for sizes in loaded.sizes]
    if isinstance(loaded.module, OperatorNetwork):
        return dict(zip(("branch", "trunk"), after, strict=True))
    return after[0] if after else [size for layer in _only(loaded.module) for size in layer]


def _only(module: nn.Module) -> Iterator[tuple[int, int]]:
    """Inputs and outputs of the layer of a network of one layer, which is no chain."""
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | HLinear | LowRankLinear)]
    return ((layer.in_features, layer.out_features) for layer in layers[:1])


def _constants(compressed: CompressedFile) -> dict[str, Tensor]:
    """Small tensors that a network names in its settings: Fourier features, normalisation, the bias of a DeepONet."""
    named = set(_names(compressed.index.info.settings.get("network", {})))
    return {name: compressed.load_untouched(name) for name in compressed.index.entries if name in named}


def _names(settings: object) -> Iterator[str]:
    """Every string in the settings of a network: among them the names of tensors."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, dict):
        for value in settings.values():
            yield from _names(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _names(value)


def _lines(compressed: CompressedFile, loaded: Loaded, written: int) -> Iterator[str]:
    for sizes in loaded.sizes:
        yield f"{'-'.join(map(str, sizes.before))} -> {'-'.join(map(str, sizes.after))}"
    before, after = (_multiplications([getattr(s, when) for s in loaded.sizes]) for when in ("before", "after"))
    if after:
        yield f"{before:,} -> {after:,} multiplications a sample, {before / after:.1f} times fewer"
    left = len(compressed.names) - written
    if left:
        yield f"{left} tensors that are no part of the network are left out"


def _multiplications(chains: Sequence[Sequence[int]]) -> int:
    """Multiplications of one sample in chains of layers of these sizes."""
    return sum(math.prod(pair) for chain in chains for pair in itertools.pairwise(chain))

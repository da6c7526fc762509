"""A compressed network as a program that runs without this package: ONNX, checked with onnxruntime, or torch.export."""

import copy
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hmcompress.container import CompressedFile, atomic_write, check_output
from hmcompress.errors import BoundError, SettingsError
from hmcompress.hmatrix.basics.surroundings import undisturbed
from hmcompress.network.model.arguments import Arguments
from hmcompress.network.model.inputs import Source, is_there
from hmcompress.network.model.modules import OperatorNetwork, Stack
from hmcompress.nn.load import Loaded, load
from hmcompress.report.files import check_apart
from hmcompress.settings.config import Settings, looked_up

AGREES = 1e-5  # largest error of the ONNX model, relative to the largest output, unless torch's own is as large
_EXTRA = ("onnx", "onnxscript", "onnxruntime")


@undisturbed
def export(
    file: str | os.PathLike,
    *,
    onnx: str | os.PathLike | None = None,
    torch: str | os.PathLike | None = None,
    force: bool = False,
) -> tuple[Path, ...]:
    """Write the slim network of a file as ONNX, as a torch.export program, or both, for any number of samples.

    The ONNX model is run by onnxruntime on the file's held-out points before it is written. Raises NetworkError where
    the file does not name its network, SettingsError where the extra is missing, BoundError where ONNX differs.
    """
    check_apart(onnx, torch)
    targets = [check_output(path, force, (file,)) for path in (onnx, torch) if path is not None]
    loaded = load(file)
    module, inputs = loaded.module.eval().requires_grad_(False), held_out_inputs(file, loaded)
    made = [_onnx_bytes(module, inputs)] if onnx is not None else []
    made += [_program_bytes(module, inputs)] if torch is not None else []
    for path, program in zip(targets, made, strict=True):  # both or, where one cannot be made, none
        with atomic_write(path, force) as target:
            target.write(program)
    return tuple(targets)


def held_out_inputs(file: str | os.PathLike, loaded: Loaded) -> tuple[Tensor, ...]:
    """The held-out points of the file's calibration, else standard normal ones, in the module's dtype.

    A calibration file may be beside the compressed one, or gone.
    """
    folder = Path(file).resolve().parent
    settings = looked_up(Settings.from_json(CompressedFile.open(file).index.info.settings), (folder,))
    dtype = next(p.dtype for p in loaded.module.parameters())
    cartesian = isinstance(loaded.module, OperatorNetwork) and loaded.module.cartesian
    if settings.calibration is not None and is_there(settings.calibration):
        return Source(settings.calibration, cartesian, dtype, Arguments.of(loaded.module)).held_out().tensors
    widths = [stack.width for stack in loaded.module.modules() if isinstance(stack, Stack)]
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(256, width, generator=generator, dtype=dtype) for width in widths)


def _onnx_bytes(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    for name in _EXTRA:
        _optional(name)
    with _quiet():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            dynamic_shapes=_dynamic(module, inputs),
            input_names=_names(module, inputs),
            output_names=["y"],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto.SerializeToString()
    _check(model, module, inputs)
    return model


def _program_bytes(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        program = torch.export.export(module, inputs, dynamic_shapes=_dynamic(module, inputs))
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _dynamic(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """The first axis of every input may have any length; all the same one, but for a cartesian DeepONet."""
    if isinstance(module, OperatorNetwork) and module.cartesian:
        return tuple({0: torch.export.Dim(name)} for name in _names(module, inputs))
    samples = torch.export.Dim("samples")
    return tuple({0: samples} for _ in inputs)


def _names(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    return ["branch", "trunk"] if isinstance(module, OperatorNetwork) else ["x"] * len(inputs)


@torch.no_grad()
def _check(model: bytes, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise BoundError where onnxruntime is further from float64 than rounding explains."""
    runtime = _optional("onnxruntime")
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), inputs, strict=True)}
    exact = copy.deepcopy(module).double()(*(x.double() for x in inputs))
    rounding = _distance(module(*inputs), exact)
    difference = _distance(torch.as_tensor(session.run(None, given)[0]), exact)
    if not difference <= max(AGREES, 2 * rounding):
        raise BoundError(f"the ONNX model is off by {difference:.2g}, torch by {rounding:.2g}: not written")


def _distance(y: Tensor, exact: Tensor) -> float:
    """Largest difference relative to the largest value."""
    y, exact = y.detach(), exact.detach()
    return float((y.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30))


def _optional(name: str) -> ModuleType:
    """The one place where the extra `onnx` is imported."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SettingsError(f"ONNX export needs {name}: pip install 'hmcompress[onnx]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's notes on its own decompositions are no concern of the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)

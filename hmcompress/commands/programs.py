"""A module as a program that runs elsewhere: torch.export's or ONNX, checked against the module in double precision."""

import importlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hmcompress.errors import BoundError, NetworkError, SettingsError
from hmcompress.network.model.failures import failure
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Network, in_precision, own_tensors
from hmcompress.network.model.outputs import tensors_in
from hmcompress.network.model.shelves import shelves_in

AGREES = 1e-5  # largest error of a program, relative to the largest output, unless torch's own is as large
_EXTRA = ("onnx", "onnxscript", "onnxruntime")
_TRACED = 61  # samples: a number that no width of a network is likely to be, which a program could mistake it for
_FEWEST = (1, 2)  # samples that a program is run on beside all: of few, some modules write programs that differ

Runs = Callable[[Points], Sequence[Tensor]]


@dataclass(frozen=True)
class Called:
    """A module in evaluation mode and points that it is called with, as many inputs as there are names."""

    module: nn.Module
    points: Points
    names: tuple[str, ...]
    by_name: tuple[str, ...] = ()  # of the names the last ones, whose arguments have no place

    def arguments(self, points: Points) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Those given by their place, and those given by name; copies, for some modules change theirs."""
        inputs = tuple(t.clone() for t in points.tensors)
        placed = len(inputs) - len(self.by_name)
        return inputs[:placed], dict(zip(self.by_name, inputs[placed:], strict=True))

    def run(self, module: Callable[..., object], points: Points) -> list[Tensor]:
        """The floating tensors that a module, or what stands for it, returns. Raises NetworkError where it fails."""
        args, named = self.arguments(points)
        try:
            return [t.detach() for t in tensors_in(module(*args, **named))]
        except Exception as error:  # whatever a module raises
            raise failure(error, points.tensors) from error

    def dynamic(self) -> tuple[dict[int, Any], ...]:
        """The first axis of every input may have any length, all the same one where samples are joint."""
        if not self.points.joint:
            return tuple({0: torch.export.Dim(name)} for name in self.names)
        return ({0: torch.export.Dim("samples")},) * len(self.names)


def traced(called: Called) -> ExportedProgram:
    """The module as torch.export's program, for any number of samples, checked. Raises NetworkError, BoundError."""
    args, named = called.arguments(called.points.take(slice(0, _TRACED)))
    with _refused("by torch.export for any number of samples"), _quiet():
        program = torch.export.export(called.module, args, named, dynamic_shapes=called.dynamic())
    runs = program.module()
    check(called, lambda points: called.run(runs, points), "the torch.export program")
    program.example_inputs = None  # torch would save the samples it was traced with
    return program


def program_bytes(program: ExportedProgram) -> bytes:
    """What torch.export.load reads."""
    buffer = io.BytesIO()
    with _refused("by torch.export"), _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def onnx_bytes(called: Called, program: ExportedProgram) -> bytes:
    """An ONNX model that has been run by onnxruntime. Raises NetworkError, and SettingsError without the extra."""
    *_, runtime = [optional(name) for name in _EXTRA]
    outputs = len(program.graph_signature.user_outputs)
    names = ["y"] if outputs == 1 else [f"y{k}" for k in range(outputs)]
    with _refused("as ONNX"), _quiet():
        made = torch.onnx.export(
            program, dynamo=True, input_names=called.names, output_names=names, verbose=False,
            dynamic_shapes=called.dynamic(),
        )  # fmt: skip
        assert made is not None
        model = made.model_proto.SerializeToString()
        session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def runs(points: Points) -> list[Tensor]:
        given = {entry.name: t.numpy() for entry, t in zip(session.get_inputs(), points.tensors, strict=True)}
        with _refused("as ONNX"):
            return list(tensors_in([torch.as_tensor(y) for y in session.run(None, given)]))

    check(called, runs, "the ONNX model")
    return model


@torch.no_grad()
def check(called: Called, program: Runs, what: str) -> None:
    """Raise BoundError where a program is further from double precision than rounding explains.

    It is run on all points, and on one and two of them where the module itself can be.
    """
    doubled, sizes = _in_double(called), list[float]()  # of the outputs of all points: of one, they may be near zero
    for count in (len(called.points), *_FEWEST):
        points = called.points.take(slice(0, count))
        try:
            own = called.run(called.module, points)
        except NetworkError:
            if count not in _FEWEST:
                raise
            continue
        exact = own if doubled is None else called.run(doubled, points.to(torch.float64))
        sizes = sizes or largest(exact)
        rounding, difference = distance(own, exact, sizes), distance(program(points), exact, sizes)
        if not difference <= max(AGREES, 2 * rounding):
            raise BoundError(
                f"{what} is off by {difference:.2g} on {count} samples, torch by {rounding:.2g}: not written"
            )


def _in_double(called: Called) -> nn.Module | None:
    """The module in double precision; None where it does not run in it."""
    shelves = tuple(shelves_in(called.module, set(own_tensors(called.module).values())))
    network = Network(called.module, (), {}, "factory", torch.float64, shelves=shelves)
    try:
        module = in_precision(network, torch.float64).module
        called.run(module, called.points.take(slice(0, 2)).to(torch.float64))
    except NetworkError:
        return None
    return module


def largest(ys: Sequence[Tensor]) -> list[float]:
    """The largest magnitude of each output."""
    return [float(y.abs().max()) if y.numel() else 0.0 for y in ys]


def distance(ys: Sequence[Tensor], exact: Sequence[Tensor], sizes: Sequence[float] | None = None) -> float:
    """Largest difference over the size of the output, of the one where that is largest; inf where shapes differ.

    sizes: of the outputs, their largest magnitudes where none are given.
    """
    if [y.numel() for y in ys] != [z.numel() for z in exact]:
        return math.inf
    some = zip(ys, exact, sizes or largest(exact), strict=True)
    return max((_off(y, z) / max(size, 1e-30) for y, z, size in some if z.numel()), default=0.0)


def _off(y: Tensor, z: Tensor) -> float:
    return float((y.double().flatten() - z.double().flatten()).abs().max())


def optional(name: str) -> ModuleType:
    """The one place where the extra `onnx` is imported."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SettingsError(f"ONNX export needs {name}: pip install 'hmcompress[onnx]'") from None


@contextmanager
def _refused(how: str) -> Iterator[None]:
    """What the exporters say over many lines, in one. Raises NetworkError."""
    try:
        yield
    except Exception as error:  # of many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        told = (line for mark in ("<class '", "- ") for line in lines if line.startswith(mark))
        line = next(told, lines[0]).removeprefix("<class '").removeprefix("- ").replace("'>: ", ": ")
        raise NetworkError(f"this network cannot be exported {how}: {line}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' notes on what they do inside are no concern of the user."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

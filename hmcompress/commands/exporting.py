"""A compressed network as a program that runs without this package: ONNX, checked with onnxruntime, or torch.export."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hmcompress.commands.programs import Called, onnx_bytes, program_bytes, traced
from hmcompress.commands.trust import check_code
from hmcompress.container import CompressedFile, atomic_write, check_output
from hmcompress.errors import NetworkError, SettingsError
from hmcompress.hmatrix.basics.surroundings import undisturbed
from hmcompress.network.model.arguments import Arguments, columns_of
from hmcompress.network.model.factory import called_factory, dtype_of
from hmcompress.network.model.inputs import Points, Source, is_there
from hmcompress.network.model.modules import OperatorNetwork, Stack
from hmcompress.nn.load import Loaded, load
from hmcompress.report.files import check_apart
from hmcompress.settings.config import Settings, looked_up, with_network
from hmcompress.settings.problem_settings import DomainCalibration, FactoryNetwork, TorchScriptNetwork
from hmcompress.settings.rules import check_quick


@undisturbed
def export(
    file: str | os.PathLike,
    *,
    onnx: str | os.PathLike | None = None,
    torch: str | os.PathLike | None = None,
    network: str | None = None,
    inputs: str | None = None,
    force: bool = False,
) -> tuple[Path, ...]:
    """Write the network of a file as ONNX, as a torch.export program, or both, for any number of samples.

    A built-in network is slim; one of a factory (the file's, or `network`) has its layers in the form that is fastest
    here, as load_model. Both programs are run on the file's held-out points (or on some of `inputs`) before they are
    written. Raises NetworkError where no network is known or it cannot be exported, SettingsError where points or the
    extra are missing or the factory is not to be trusted, BoundError where a program differs from the network.
    """
    if onnx is None and torch is None:
        raise SettingsError("nothing to export: give --onnx OUT or --torch OUT")
    check_apart(onnx, torch)
    targets = [check_output(path, force, (file,)) for path in (onnx, torch) if path is not None]
    called = _called(file, network, inputs)
    program = traced(called)
    made = [onnx_bytes(called, program)] if onnx is not None else []
    made += [program_bytes(program)] if torch is not None else []
    for path, written in zip(targets, made, strict=True):  # both or, where one cannot be made, none
        with atomic_write(path, force) as target:
            target.write(written)
    return tuple(targets)


def _called(file: str | os.PathLike, factory: str | None, inputs: str | None) -> Called:
    """The network of a file, and what it is called with. Code of the user's own is not looked for beside the file."""
    stored = with_network(Settings.from_json(CompressedFile.open(file).index.info.settings), factory, inputs)
    settings = looked_up(stored, (Path(file).resolve().parent,))
    if isinstance(settings.network, FactoryNetwork):
        if factory is None:
            check_code(settings.network.factory)
        check_quick(settings)
        return _of_factory(file, settings.network.factory, settings)
    if isinstance(settings.network, TorchScriptNetwork):
        raise NetworkError(
            f"{file} holds the network of an archive, which no exporter takes: load_model(file, "
            "torch.jit.load(SOURCE)).save(OUT) in Python writes a smaller archive; or give a factory as --network"
        )
    loaded = load(file)
    module = loaded.module.eval().requires_grad_(False)
    is_pair = isinstance(module, OperatorNetwork)
    names = ("branch", "trunk") if is_pair else ("x",)
    return Called(module, _held_out(settings, loaded, inputs is not None), names)


def _of_factory(file: str | os.PathLike, factory: str, settings: Settings) -> Called:
    if settings.calibration is None:
        raise SettingsError(f"{file} does not say what its network takes, which export must know: give --inputs FILE")
    module = load(file, called_factory(factory)).module.eval().requires_grad_(False)
    module, arguments = _computed(module), Arguments.of(module)
    source = Source(settings.calibration, False, dtype_of(module), arguments)
    points, given = source.held_out(), list(source.names)
    if isinstance(settings.calibration, DomainCalibration) and len(arguments.needed) > 1:
        given = list(settings.calibration.domain)
        places = columns_of(arguments, given)
        points, given = Points(tuple(points.tensors[0][:, i : i + 1] for i in places)), [given[i] for i in places]
    return Called(module, points, _names(arguments, given, len(points.tensors)), arguments.by_name(given))


def _names(arguments: Arguments, given: list[str], count: int) -> tuple[str, ...]:
    """What the program's inputs are called: as the module's arguments are, if it tells."""
    if given and (arguments.ordered(given) == given or len(arguments.names) < count):
        return tuple(given)
    numbered = ("x",) if count == 1 else tuple(f"x{k}" for k in range(count))
    return arguments.names[:count] if len(arguments.names) >= count else numbered


def _computed(module: nn.Module) -> nn.Module:
    """The module with parametrized weights as they are computed, once and for all."""
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            assert isinstance(part.parametrizations, nn.ModuleDict)
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name)
    return module.requires_grad_(False)


def held_out_inputs(file: str | os.PathLike, loaded: Loaded) -> tuple[Tensor, ...]:
    """The held-out points of the file's calibration, else standard normal ones, in the module's dtype.

    A calibration file may be beside the compressed one, or gone.
    """
    folder = Path(file).resolve().parent
    settings = looked_up(Settings.from_json(CompressedFile.open(file).index.info.settings), (folder,))
    return _held_out(settings, loaded, False).tensors


def _held_out(settings: Settings, loaded: Loaded, is_needed: bool) -> Points:
    """Those of a built-in network; others where the file that they come from is gone and not needed."""
    dtype = next(p.dtype for p in loaded.module.parameters())
    cartesian = isinstance(loaded.module, OperatorNetwork) and loaded.module.cartesian
    if settings.calibration is not None and (is_needed or is_there(settings.calibration)):
        return Source(settings.calibration, cartesian, dtype, Arguments.of(loaded.module)).held_out()
    widths = [stack.width for stack in loaded.module.modules() if isinstance(stack, Stack)]
    generator = torch.Generator().manual_seed(0)
    return Points(tuple(torch.randn(256, width, generator=generator, dtype=dtype) for width in widths), not cartesian)

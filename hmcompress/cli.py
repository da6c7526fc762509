"""The command line: parse, call the pipeline, render, exit code."""

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import click

from hmcompress.errors import HMCompressError
from hmcompress.late import end, load_for_good, spin_little
from hmcompress.report.files import check_apart, check_page, write_page
from hmcompress.report.html import render_compare_html, render_report_html
from hmcompress.report.json import render_json
from hmcompress.report.junit import render_junit
from hmcompress.report.plot import check_plot, write_plot
from hmcompress.report.select import find_layer
from hmcompress.report.table import layer_view, report_view
from hmcompress.report.terminal import draw, progress_bar, put, put_line, width_of_terminal
from hmcompress.report.verdict_table import bench_view, compare_view, verify_view
from hmcompress.settings.config import EFFORTS, METRICS, NORMS, load_settings

COMPARE_TOLERANCES = (1e-2, 1e-3, 1e-4)
INTERRUPTED = 130  # 128 + SIGINT
_OUT_OF_MEMORY = ("not enough memory", "out of memory", "can't allocate memory")

Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def main() -> None:
    """Entry point of the console script."""
    spin_little()
    try:
        code = run(sys.argv[1:])
    except Exception:  # a fault of ours: 1 would say that a bound is violated
        traceback.print_exc()
        code = 2
    end(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every error is one line on stderr."""
    try:
        return commands.main(args=list(arguments), prog_name="hmcompress", standalone_mode=False) or 0
    except HMCompressError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except SystemExit:  # of click: the reader of what it writes, which are help texts, has gone
        return 0 if {"-h", "--help", "--version"} & set(arguments) else 2
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)
    except OSError as error:
        return _fail(_system_message(error), 2)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail("not enough memory; --jobs 1 needs the least", 2)


def _fail(message: str, code: int) -> int:
    put_line(f"hmcompress: {message}", sys.stderr)
    return code


def _is_out_of_memory(error: Exception) -> bool:
    """torch tells it as a RuntimeError of its allocator."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


def _system_message(error: OSError) -> str:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*names[:1], error.strerror or str(error)])


def _pipeline(module: str = "pipeline") -> ModuleType:
    """The pipeline, or what stands beside it, on demand."""
    return load_for_good(f"hmcompress.{module}")


# ---- options that several commands share ----

_source = click.argument("source", type=click.Path())
_file = click.argument("file", type=click.Path())
_tol = click.option("--tol", type=float, metavar="E", help="Relative error that must not be exceeded, 0 < E < 1.")
_metric = click.option("--metric", type=click.Choice(METRICS), help="What the tolerance bounds.")
_config = click.option("--config", type=click.Path(), metavar="FILE.yaml", help="Settings; options beat them.")
_network = click.option("--network", metavar="PKG.MOD:FACTORY", help="Function that returns the nn.Module.")
_inputs = click.option("--inputs", type=click.Path(), metavar="FILE", help="Inputs of the network, one sample a row.")
_force = click.option("--force", is_flag=True, help="Replace an existing output.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else.")
_quiet = click.option("--quiet", is_flag=True, help="No progress and no table.")
_html = click.option("--html", type=click.Path(), metavar="OUT", help="Also write a self-contained page.")


def _patterns(name: str, text: str) -> Option:
    return click.option(name, multiple=True, metavar="GLOB", help=f"{text} (repeatable; re:... for a pattern).")


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """Settings that were given as options; what was not given is None and leaves the YAML alone."""
    network, inputs = options.pop("network", None), options.pop("inputs", None)
    options |= {"network": network and {"factory": network}, "calibration": inputs and {"inputs": inputs}}
    return {name: None if value == () else value for name, value in options.items()}


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done and every bound holds, 1 a bound is violated or cannot be met, 2 could not do it.",
)
@click.version_option(package_name="hmcompress")
@click.pass_context
def commands(context: click.Context) -> int:
    """Make saved PyTorch models much smaller, with an error that is bounded, measured and checkable."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(2)
    return 0


@commands.command()
@_source
@click.option("-o", "--output", type=click.Path(), metavar="OUT", help="Default: <stem>.hmc.safetensors beside it.")
@_tol
@click.option("--norm", type=click.Choice(NORMS), help="Norm of the relative error of a layer.")
@_metric
@click.option("--target-ratio", type=float, metavar="R", help="Find the tolerance that makes the file R times smaller.")
@_config
@_network
@_inputs
@_patterns("--include", "Compress these tensors only")
@_patterns("--exclude", "Keep these tensors lossless")
@_patterns("--drop", "Leave these tensors out")
@click.option("--effort", type=click.Choice(EFFORTS), help="Time spent on a smaller file.")
@click.option("--jobs", type=int, metavar="N", help="Tensors at once; default: as many as processors.")
@click.option("--device", metavar="D", help="Where the outputs metric runs the network: cpu, cuda, ...")
@_force
@click.option("--dry-run", is_flag=True, help="Do everything but write the file.")
@_json
@_html
@_quiet
def compress(
    source: str, output: str | None, config: str | None, force: bool, dry_run: bool, as_json: bool, html: str | None,
    quiet: bool, **options: Any,
) -> int:  # fmt: skip
    """Compress SOURCE: .pt .pth .bin .ckpt, TorchScript, .safetensors, or a folder of shards."""
    settings = load_settings(config, _overrides(options))
    if html is not None:
        _check_pages((source, output or _pipeline().default_output(source)), html)
    with progress_bar(quiet) as tell:
        report = _pipeline().compress(
            source, output, settings=settings, force=force, dry_run=dry_run, progress=tell
        )  # fmt: skip
    if html is not None:  # spectra and loss curves are drawn here only: the file does not keep them
        write_page(html, render_report_html(report))
    _show(report, as_json, quiet, lambda width: report_view(report, width))
    if dry_run:
        _say("dry run: nothing was written", quiet or as_json)
    return 0 if report.passed else 1


@commands.command()
@_file
@click.option("-o", "--output", type=click.Path(), metavar="OUT", required=True, help="OUT.safetensors or OUT.pt.")
@click.option("--slim", is_flag=True, help="Without dead neurons.")
@_force
@_quiet
def decompress(file: str, output: str, slim: bool, force: bool, quiet: bool) -> int:
    """Restore an ordinary checkpoint from the compressed FILE."""
    with progress_bar(quiet) as tell:
        lacking = _pipeline().decompress(file, output, force=force, progress=tell, **({"slim": True} if slim else {}))
    for line in (f"{file} -> {output}", *lacking):
        _say(line, quiet)
    return 0


@commands.command()
@_file
@click.option("--onnx", type=click.Path(), metavar="OUT", help="Write an ONNX model (extra: onnx).")
@click.option("--torch", "torch_out", type=click.Path(), metavar="OUT", help="Write a torch.export program.")
@_network
@_inputs
@_force
@_quiet
def export(file: str, onnx: str | None, torch_out: str | None, quiet: bool, **options: Any) -> int:
    """Write the network of FILE as a program that runs without this package."""
    _pipeline("commands.exporting").export(file, onnx=onnx, torch=torch_out, **options)
    for path in (onnx, torch_out):
        _say(f"{file} -> {path}", quiet or path is None)
    return 0


@commands.command()
@_file
@click.option("--batch", type=click.IntRange(1, 1 << 30), multiple=True, metavar="N", help="Batch size (repeatable).")
@_json
@_quiet
def bench(file: str, batch: tuple[int, ...], as_json: bool, quiet: bool) -> int:
    """Latency and memory of the compressed form against dense, in the same run."""
    with progress_bar(quiet) as tell:
        report = _pipeline("commands.timing").bench(file, batches=batch or (1, 16, 256), progress=tell)
    _show(report, as_json, quiet, lambda width: bench_view(report, width))
    return 0


@commands.command()
@_file
@click.option("--layer", metavar="NAME", help="Everything about one layer.")
@_json
@_html
def report(file: str, layer: str | None, as_json: bool, html: str | None) -> int:
    """What FILE holds: every layer, its bytes and its measured error."""
    result = _pipeline().report(file)
    chosen = None if layer is None else find_layer(result, layer)
    _check_pages((file,), html)
    if html is not None:
        write_page(html, render_report_html(result))
    shown = result if chosen is None else replace(result, layers=(chosen,))
    view = (lambda width: report_view(result, width)) if chosen is None else (lambda _: layer_view(chosen, result))
    _show(shown, as_json, False, view)
    return 0 if result.passed else 1


@commands.command()
@_file
@click.option("--against", type=click.Path(), metavar="SOURCE", help="Recompute every error from the original.")
@_tol
@_network
@_inputs
@_json
@click.option("--junit", type=click.Path(), metavar="OUT", help="Also write JUnit XML.")
@_quiet
def verify(
    file: str, against: str | None, tol: float | None, network: str | None, inputs: str | None, as_json: bool,
    junit: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Check FILE: structure, checksums, and that every bound holds."""
    load_settings(None, {"tol": tol})  # a wrong tolerance is told before anything is read
    _check_pages((file, against or file), junit)
    with progress_bar(quiet) as tell:
        result = _pipeline().verify(file, against, tol=tol, network=network, inputs=inputs, progress=tell)
    if junit is not None:
        write_page(junit, render_junit(result, file))
    _show(result, as_json, quiet, lambda width: verify_view(result, file, width))
    return 0 if result.passed else 1


@commands.command()
@_source
@click.option("--tol", "tols", type=float, multiple=True, metavar="E", help="Tolerance (repeatable).")
@_metric
@_config
@_network
@_inputs
@_json
@_html
@click.option("--plot", type=click.Path(), metavar="OUT.png", help="Draw rate against error (extra: plot).")
@_quiet
def compare(
    source: str, tols: tuple[float, ...], config: str | None, as_json: bool, html: str | None, plot: str | None,
    quiet: bool, **options: Any,
) -> int:  # fmt: skip
    """Ours beside SVD, quantisation, pruning and entropy-coded quantisation at the same measured error."""
    tols = tols or ((load_settings(config).tol,) if config else COMPARE_TOLERANCES)
    settings = [load_settings(config, {**_overrides(dict(options)), "tol": tol}) for tol in tols]
    check_apart(html, plot)
    _check_pages((source,), html)
    if plot is not None:
        check_plot(plot, (source,))
    with progress_bar(quiet) as tell:
        result = _pipeline().compare(source, tols=tols, settings=settings[0], progress=tell)
    if html is not None:
        write_page(html, render_compare_html(result, source))
    if plot is not None:
        write_plot(plot, result, source)
    _show(result, as_json, quiet, lambda _: compare_view(result))
    return 0


def _check_pages(models: Sequence[str], *pages: str | None) -> None:
    """Before minutes of work: can the pages be written, and are they none of the command's models?"""
    for page in pages:
        if page is not None:
            check_page(page, models)


def _show(record: Any, as_json: bool, quiet: bool, view: Callable[[int], Any]) -> None:
    """The JSON document, or the drawing for this terminal's width, or nothing."""
    if as_json:
        put(render_json(record), sys.stdout)
    elif not quiet:
        draw(view(width_of_terminal()))


def _say(message: str, quiet: bool) -> None:
    if not quiet:
        put_line(message, sys.stdout)

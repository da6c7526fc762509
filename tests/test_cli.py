"""Claims about the command line: exit codes, one line an error, one JSON document; the pipeline is a stand-in here."""

import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from hmcompress import cli
from hmcompress.errors import BoundError, FormatError, NetworkError, OutputError, SourceError
from hmcompress.pipeline import default_output
from hmcompress.report import terminal
from hmcompress.report.terminal import so_far, time_left

sys.path.insert(0, str(Path(__file__).parent / "report"))
import samples


class Pipeline(SimpleNamespace):
    """Remembers how it was called."""

    def __init__(self, **results) -> None:
        super().__init__(calls=[], default_output=default_output)
        for name, result in results.items():
            setattr(self, name, self._function(name, result))

    def _function(self, name, result):
        def call(*args, **options):
            self.calls.append((name, args, options))
            if isinstance(result, BaseException):
                raise result
            return result

        return call


@pytest.fixture
def pipeline(monkeypatch):
    def install(**results) -> Pipeline:
        stand_in = Pipeline(**results)
        monkeypatch.setattr(cli, "_pipeline", lambda *_: stand_in)
        return stand_in

    return install


def test_compress_passes_what_was_given_and_nothing_else(pipeline, capsys):
    stand_in = pipeline(compress=samples.small())
    arguments = ["compress", "m.pt", "-o", "o", "--tol", "1e-4", "--exclude", "a*", "--exclude", "b", "--effort", "max",
                 "--jobs", "2", "--norm", "max", "--force", "--dry-run"]  # fmt: skip
    assert cli.run(arguments) == 0
    name, args, options = stand_in.calls[0]
    settings = options["settings"]
    assert (name, args, options["force"], options["dry_run"]) == ("compress", ("m.pt", "o"), True, True)
    assert settings.to_json() == {"tol": 1e-4, "norm": "max", "effort": "max", "exclude": ["a*", "b"]}
    assert settings.jobs == 2
    assert "whole file" in capsys.readouterr().out


def test_network_and_inputs_become_settings(pipeline):
    stand_in = pipeline(compress=samples.network())
    assert cli.run(["compress", "m.pt", "--metric", "outputs", "--network", "a.b:c", "--inputs", "x.npz"]) == 0
    settings = stand_in.calls[0][2]["settings"].to_json()
    assert settings["network"] == {"factory": "a.b:c"} and settings["calibration"] == {"inputs": "x.npz"}


@pytest.mark.parametrize(
    ("command", "results"),
    [
        (["compress", "m.pt"], {"compress": samples.small()}),
        (["compress", "m.pt"], {"compress": samples.network()}),
        (["report", "f"], {"report": samples.large()}),
        (["report", "f", "--layer", "net.4.weight"], {"report": samples.small()}),
        (["verify", "f"], {"verify": samples.verified()}),
        (["compare", "m.pt"], {"compare": samples.compared()}),
        (["bench", "f"], {"bench": samples.benched()}),
    ],
)
def test_json_is_one_document_on_stdout_and_nothing_else(pipeline, capsys, command, results):
    pipeline(**results)
    assert cli.run([*command, "--json"]) == 0
    printed = capsys.readouterr()
    assert isinstance(json.loads(printed.out), dict) and printed.err == ""


def test_json_of_a_failed_verification_is_still_one_document(pipeline, capsys):
    pipeline(verify=samples.verified(False))
    assert cli.run(["verify", "f", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_quiet_prints_nothing(pipeline, capsys):
    pipeline(compress=samples.small(), decompress=())
    assert cli.run(["compress", "m.pt", "--quiet"]) == 0
    assert cli.run(["decompress", "f", "-o", "o.pt", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("command", "results", "code"),
    [
        (["compress", "m.pt"], {"compress": samples.violated()}, 1),
        (["report", "f"], {"report": samples.violated()}, 1),
        (["verify", "f"], {"verify": samples.verified(False)}, 1),
        (["verify", "f"], {"verify": samples.verified_network(error=1.0)}, 1),
        (["verify", "f"], {"verify": samples.verified_network()}, 0),
    ],
)
def test_a_violated_bound_is_exit_code_1(pipeline, command, results, code):
    pipeline(**results)
    assert cli.run(command) == code


ERRORS = [
    (SourceError("m.pt: not a checkpoint"), 2, "m.pt: not a checkpoint"),
    (FormatError("f: damaged"), 2, "f: damaged"),
    (OutputError("o: exists already, --force replaces it"), 2, "o: exists already"),
    (NetworkError("layers differ"), 2, "layers differ"),
    (BoundError("tolerance 1e-9 cannot be met"), 1, "tolerance 1e-9 cannot be met"),
    (SourceError("two\nlines \x1b[31mred"), 2, "two lines \ufffd[31mred"),
    (PermissionError(13, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
    (OSError(28, "No space left on device"), 2, "No space left on device"),
    (FileNotFoundError(2, "No such file or directory", "m.pt"), 2, "m.pt: No such file"),
    (MemoryError(), 2, "not enough memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 2, "not enough memory"),
    (KeyboardInterrupt(), 130, "interrupted"),
]


@pytest.mark.parametrize(("error", "code", "told"), ERRORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("as_json", [False, True])
def test_every_error_is_one_line_on_stderr(pipeline, capsys, error, code, told, as_json):
    pipeline(compress=error)
    assert cli.run(["compress", "m.pt", *(["--json"] if as_json else [])]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    line = printed.err.removeprefix("\n")  # click moves past the ^C of the terminal
    assert line.startswith("hmcompress: ") and told in line and line.count("\n") == 1


@pytest.fixture
def closed_pipe(tmp_path):
    """A stream whose reader, `head` say, has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        yield stream


@pytest.mark.parametrize("arguments", [["verify", "f"], ["verify", "f", "--json"]])
@pytest.mark.parametrize("passed", [True, False])
def test_a_reader_that_has_gone_does_not_change_the_exit_code(pipeline, monkeypatch, closed_pipe, arguments, passed):
    pipeline(verify=samples.verified(passed))
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert cli.run(arguments) == (0 if passed else 1)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["compress", "--help"]])
def test_a_help_text_that_nobody_reads_is_no_violated_bound(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "hmcompress", *arguments], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_error_that_nobody_reads_keeps_its_exit_code(pipeline, monkeypatch, closed_pipe):
    pipeline(compress=BoundError("cannot be met"))
    monkeypatch.setattr(sys, "stderr", closed_pipe)
    assert cli.run(["compress", "m.pt"]) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_an_error_that_cannot_be_written_keeps_its_exit_code(pipeline, monkeypatch):
    pipeline(compress=SourceError("no such file"))
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert cli.run(["compress", "m.pt"]) == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("arguments", [["report", "f"], ["report", "f", "--json"], ["report", "nope"]])
def test_a_terminal_that_lacks_characters_gets_escapes(pipeline, monkeypatch, encoding, arguments):
    failing = "nope" in arguments[1]
    stand_in = SourceError("nope\u6a21: no such file") if failing else samples.unicode()
    pipeline(report=stand_in)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert cli.run(arguments) == (2 if failing else 0)
    printed = (sys.stderr if failing else sys.stdout).buffer.getvalue().decode(encoding)
    if "--json" in arguments:
        assert json.loads(printed)["source"] == samples.unicode().source
    else:
        assert "\\u6a21" in printed


def test_pages_are_refused_before_the_work(pipeline, tmp_path, capsys):
    stand_in = pipeline(compress=samples.small(), verify=samples.verified(), compare=samples.compared())
    model = tmp_path / "m.pt"
    model.write_bytes(b"weights")
    for command, option in (("compress", "--html"), ("verify", "--junit"), ("compare", "--html")):
        assert cli.run([command, str(model), option, str(tmp_path / "no" / "page")]) == 2
        assert "does not exist" in capsys.readouterr().err
        assert cli.run([command, str(model), option, str(model)]) == 2
        assert "is the model itself" in capsys.readouterr().err
    new = str(tmp_path / "new")
    assert cli.run(["compress", str(model), "-o", new, "--html", new]) == 2
    assert stand_in.calls == [] and model.read_bytes() == b"weights"


def test_one_layer_as_json_is_the_report_with_that_layer(pipeline, capsys):
    pipeline(report=samples.small())
    assert cli.run(["report", "f", "--layer", "net.4.weight", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1 and [layer["name"] for layer in document["layers"]] == ["net.4.weight"]
    assert document["source_bytes"] == samples.small().source_bytes


def test_other_faults_than_a_lack_of_memory_are_not_hidden(pipeline):
    pipeline(compress=RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.run(["compress", "m.pt"])


USAGE = [
    (["compres", "m.pt"], "No such command 'compres'"),
    (["compress"], "Missing argument 'SOURCE'"),
    (["compress", "m.pt", "--tl", "1"], "No such option"),
    (["compress", "m.pt", "--tl", "1"], "--tl"),
    (["compress", "m.pt", "--tl", "1"], "--tol"),
    (["compress", "m.pt", "--tol", "small"], "'small' is not a valid float"),
    (["compress", "m.pt", "--tol", "0"], "tol must be a relative error between 0 and 1, such as 1e-3, got 0"),
    (["compress", "m.pt", "--tol", "1"], "tol must be a relative error between 0 and 1"),
    (["compress", "m.pt", "--tol", "-1"], "tol must be a relative error between 0 and 1"),
    (["compress", "m.pt", "--tol", "nan"], "tol must be a finite number, got nan"),
    (["compress", "m.pt", "--target-ratio", "1"], "target_ratio must be above 1"),
    (["compress", "m.pt", "--jobs", "0"], "jobs must be at least 1"),
    (["compress", "m.pt", "--norm", "frobenius"], "'fro', 'spectral', 'max'"),
    (["compress", "m.pt", "--effort", "most"], "'fast', 'default', 'max'"),
    (["compress", "m.pt", "--metric", "outputs"], "metric outputs needs a network"),
    (["compress", "m.pt", "--config", "no.yaml"], "no.yaml: no such settings file"),
    (["compress", "m.pt", "extra"], "unexpected extra argument"),
    (["decompress", "f"], "Missing option '-o'"),
    (["bench", "f", "--batch", "0"], "0 is not in the range"),
    (["bench", "f", "--batch", "99999999999999999999"], "is not in the range"),
    (["compare", "m.pt", "--tol", "2"], "tol must be a relative error between 0 and 1"),
    (["verify", "f", "--tol", "0"], "tol must be a relative error between 0 and 1"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "told"), USAGE)
def test_wrong_usage_is_one_line_and_exit_code_2(pipeline, capsys, arguments, told):
    stand_in = pipeline(compress=samples.small(), compare=samples.compared(), verify=samples.verified())
    assert cli.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and told in printed.err
    assert stand_in.calls == []


def test_a_typo_in_the_yaml_names_file_line_and_key(tmp_path, capsys):
    path = tmp_path / "s.yaml"
    path.write_text("tol: 1e-3\nefort: max\n")
    assert cli.run(["compress", "m.pt", "--config", str(path)]) == 2
    assert capsys.readouterr().err == f"hmcompress: {path} line 2: unknown setting 'efort', did you mean 'effort'?\n"


def test_pages_and_junit_are_written(pipeline, tmp_path, capsys):
    pipeline(compress=samples.network(), report=samples.small(), compare=samples.compared(),
             verify=samples.verified(False))  # fmt: skip
    assert cli.run(["report", "f", "--html", str(tmp_path / "r.html")]) == 0
    assert cli.run(["compress", "m.pt", "--html", str(tmp_path / "n.html"), "--quiet"]) == 0
    assert cli.run(["compare", "m.pt", "--html", str(tmp_path / "c.html")]) == 0
    assert cli.run(["verify", "f", "--junit", str(tmp_path / "j.xml")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "j.xml", "n.html", "r.html"]
    assert cli.run(["report", "f", "--html", str(tmp_path / "no" / "r.html")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_an_unknown_layer_names_the_nearest(pipeline, capsys):
    pipeline(report=samples.small())
    assert cli.run(["report", "f", "--layer", "net.4.wait"]) == 2
    assert "did you mean 'net.4.weight'?" in capsys.readouterr().err


def test_compare_takes_the_tolerances_given_else_those_of_the_yaml(pipeline, tmp_path):
    stand_in = pipeline(compare=samples.compared())
    path = tmp_path / "s.yaml"
    path.write_text("tol: 1e-5\n")
    for arguments in (["--tol", "0.1", "--tol", "0.01"], ["--config", str(path)], []):
        assert cli.run(["compare", "m.pt", *arguments]) == 0
    assert [call[2]["tols"] for call in stand_in.calls] == [(0.1, 0.01), (1e-5,), cli.COMPARE_TOLERANCES]


def test_a_fault_of_the_program_is_no_violated_bound(pipeline, monkeypatch, capsys):
    pipeline(report=KeyError("a fault"))
    monkeypatch.setattr(sys, "argv", ["hmcompress", "report", "m.hmc.safetensors"])
    monkeypatch.setattr(cli, "end", sys.exit)  # other tests go on here
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "KeyError: 'a fault'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", *cli.commands.commands])
def test_help_is_there_without_torch(command):
    """torch takes seconds to import; help and usage errors do without it."""
    code = (
        "import sys; from hmcompress.cli import run; "
        f"assert run({[command, '--help'] if command else ['--help']!r}) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: hmcompress" in done.stdout


def test_the_commands_and_options_of_the_interface_exist():
    expected = {
        "compress": "output tol norm metric target_ratio config network inputs include exclude drop effort jobs device "
        "force dry_run as_json html quiet source",
        "decompress": "file output slim force quiet",
        "export": "file onnx torch_out network inputs force quiet",
        "bench": "file batch as_json quiet",
        "report": "file layer as_json html",
        "verify": "file against tol network inputs as_json junit quiet",
        "compare": "source tols metric config network inputs as_json html plot quiet",
    }
    found = {name: {parameter.name for parameter in command.params} for name, command in cli.commands.commands.items()}
    assert found == {name: set(options.split()) for name, options in expected.items()}


def test_no_command_shows_the_help_and_is_no_success(capsys):
    assert cli.run([]) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("done", "total", "elapsed", "left"),
    [
        (0, 100, 5, None),
        (1, 100, 5, None),
        (50, 100, 0.5, None),
        (50, 100, 5, 5.0),
        (100, 100, 5, 0.0),
        (0, 0, 5, None),
    ],
)
def test_time_left_waits_until_there_is_something_to_judge_by(done, total, elapsed, left):
    assert time_left(done, total, elapsed) == left


def test_time_left_of_other_work_is_by_its_own_speed():
    console = Console(file=io.StringIO(), force_terminal=True)
    with terminal._bar(console, False) as tell:
        task = inspect.getclosurevars(tell).nonlocals["shown"]
        tell("fit", 50, 100)
        begun = task.start_time
        tell("fit", 100, 100)
        assert task.start_time == begun
        tell("fit", 25, 100)
        assert begun < task.start_time
        begun = task.start_time
        tell("search", 30, 200)
        assert begun < task.start_time and task.completed == 30


def test_progress_is_told_in_bytes_or_in_per_cent():
    assert so_far(12_345_678, 104_000_000) == "12.3 MB of 104 MB"
    assert so_far(3, 40) == "8%" and so_far(0, 0) == ""


def test_progress_is_silent_where_nobody_watches(pipeline, capsys):
    def compress(*args, progress, **options):
        progress("layer", 1, 2)
        return samples.small()

    pipeline().compress = compress
    assert cli.run(["compress", "m.pt"]) == 0
    assert capsys.readouterr().err == ""

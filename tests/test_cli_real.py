"""Claims about the command line with the real pipeline: a newcomer's path, and what happens when it goes wrong."""

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hmcompress import cli

SAMPLE = Path(__file__).parents[1] / "sample_models" / "burgers.pt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def compressed(folder):
    path = folder / "burgers.hmc.safetensors"
    assert cli.run(["compress", str(SAMPLE), "-o", str(path), "--tol", "1e-3", "--quiet"]) == 0
    return path


def one_line(capsys) -> str:
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and printed.err.startswith("hmcompress: ")
    return printed.err


def test_compress_writes_beside_the_source_and_prints_the_whole_file(tmp_path, capsys):
    source = tmp_path / "model.pt"
    source.write_bytes(SAMPLE.read_bytes())
    assert cli.run(["compress", str(source)]) == 0
    printed = capsys.readouterr().out
    written = tmp_path / "model.hmc.safetensors"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.hmc.safetensors", "model.pt"]
    assert written.stat().st_size < source.stat().st_size / 2.5
    assert "whole file" in printed and "bounds hold" in printed


def test_compress_and_report_agree(tmp_path, capsys):
    path = str(tmp_path / "a.hmc.safetensors")
    assert cli.run(["compress", str(SAMPLE), "-o", path, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert cli.run(["report", path, "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    for ours, theirs in zip(first["layers"], second["layers"], strict=True):
        for key in ("error", "max_abs_error"):  # the file keeps five digits, rounded up
            assert ours[key] <= theirs[key] <= ours[key] * 1.0002
            del ours[key], theirs[key]
        del ours["seconds"], theirs["seconds"]
    same = ("source_bytes", "output_bytes", "ratio", "tol", "norm", "metric", "layers", "other", "left_behind")
    assert {key: first[key] for key in same} == {key: second[key] for key in same}
    assert first["output_bytes"] == os.path.getsize(path) and first["source_bytes"] == SAMPLE.stat().st_size


def test_every_byte_is_accounted_for(compressed, capsys):
    assert cli.run(["report", str(compressed), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    inside = sum(layer["stored_bytes"] for layer in report["layers"]) + report["other"]["stored_bytes"]
    overhead = report["output_bytes"] - inside
    assert 0 < overhead <= 1024 + 120 * len(report["layers"])


def test_verify_agrees_with_compress_and_with_a_stricter_tolerance_does_not(compressed, tmp_path, capsys):
    against = ["verify", str(compressed), "--against", str(SAMPLE)]
    assert cli.run([*against, "--junit", str(tmp_path / "j.xml"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and all(layer["error"] <= layer["tol"] == 1e-3 for layer in report["layers"])
    assert 'failures="0"' in (tmp_path / "j.xml").read_text()
    assert cli.run([*against, "--tol", "1e-5"]) == 1
    assert "above tolerance: net.2.weight" in " ".join(capsys.readouterr().out.split())


def test_decompress_gives_the_checkpoint_back(compressed, tmp_path):
    path = tmp_path / "back.pt"
    assert cli.run(["decompress", str(compressed), "-o", str(path), "--quiet"]) == 0
    original, restored = (torch.load(p, weights_only=True) for p in (SAMPLE, path))
    assert list(original) == list(restored)
    for name, tensor in original.items():
        assert restored[name].shape == tensor.shape and restored[name].dtype == tensor.dtype
        assert (restored[name] - tensor).norm() <= 1e-3 * tensor.norm()


def test_a_dry_run_writes_nothing_and_counts_the_same(compressed, tmp_path, capsys):
    target = tmp_path / "x.hmc.safetensors"
    assert cli.run(["compress", str(SAMPLE), "-o", str(target), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output_bytes"] == compressed.stat().st_size
    assert list(tmp_path.iterdir()) == []


def test_repeated_runs_give_the_same_bytes(compressed, tmp_path):
    target = tmp_path / "again.hmc.safetensors"
    assert cli.run(["compress", str(SAMPLE), "-o", str(target), "--jobs", "1", "--quiet"]) == 0
    assert target.read_bytes() == compressed.read_bytes()


def test_an_existing_output_is_replaced_only_with_force(tmp_path, capsys):
    target = tmp_path / "x.hmc.safetensors"
    target.write_text("precious")
    command = ["compress", str(SAMPLE), "-o", str(target), "--quiet"]
    assert cli.run(command) == 2
    assert "--force" in one_line(capsys) and target.read_text() == "precious"
    assert cli.run([*command, "--force"]) == 0
    assert target.read_bytes()[:8] != b"precious"


def test_a_wrong_path_is_one_line(tmp_path, capsys):
    assert cli.run(["compress", str(tmp_path / "no.pt")]) == 2
    assert "no.pt: no such file" in one_line(capsys)


def test_a_text_file_named_pt_is_one_line(tmp_path, capsys):
    path = tmp_path / "notes.pt"
    path.write_text("these are notes\n")
    assert cli.run(["compress", str(path)]) == 2
    assert "is a text file, not a saved model" in one_line(capsys)


@pytest.mark.parametrize("command", ["report", "verify"])
def test_an_ordinary_checkpoint_is_no_compressed_file(command, capsys):
    assert cli.run([command, str(SAMPLE)]) == 2
    assert "not a compressed model" in one_line(capsys)


def test_a_compressed_file_is_not_compressed_again(compressed, capsys):
    assert cli.run(["compress", str(compressed)]) == 2
    assert "compressed already" in one_line(capsys)


def test_a_pattern_that_matches_nothing_is_one_line(capsys):
    assert cli.run(["compress", str(SAMPLE), "--exclude", "net.0", "--dry-run"]) == 2
    assert "exclude: 'net.0' matches no tensor, did you mean 'net.0.*'?" in one_line(capsys)


def test_a_damaged_file_is_one_line(compressed, tmp_path, capsys):
    data = bytearray(compressed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "damaged.hmc.safetensors"
    path.write_bytes(data)
    assert cli.run(["verify", str(path)]) == 2
    one_line(capsys)


def run_in(folder: Path, *arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "hmcompress", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}, cwd=folder, **options,
    )  # fmt: skip


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))

    done = run_in(tmp_path, "compress", str(SAMPLE), "-o", "x.hmc.safetensors", "--tol", "1e-5", preexec_fn=limit)
    _, told = done.communicate(timeout=120)
    assert done.returncode == 2 and told.count("\n") == 1 and "File too large" in told, told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_is_exit_code_130_and_leaves_nothing(tmp_path, monkeypatch, capsys, jobs):
    def interrupt(what: str, done: int, total: int) -> None:
        if done > 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "progress_bar", lambda quiet: nullcontext(interrupt))
    target = tmp_path / "x.hmc.safetensors"
    assert cli.run(["compress", str(SAMPLE), "-o", str(target), "--jobs", jobs]) == 130
    assert capsys.readouterr().err.strip() == "hmcompress: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def shards(tmp_path):
    """A folder of two shards, and what its files hold."""
    folder = tmp_path / "shards"
    folder.mkdir()
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    for name, key in zip(names, "ab", strict=True):
        save_file({key: torch.randn(32, 32)}, folder / name)
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_no_output_replaces_a_part_of_the_source(shards, tmp_path, capsys):
    before = {path: path.read_bytes() for path in shards.iterdir()}
    other = str(tmp_path / "o.hmc.safetensors")
    for path in sorted(before):
        assert cli.run(["compress", str(shards), "-o", str(path), "--force"]) == 2
        assert "is the source itself" in one_line(capsys)
        assert cli.run(["compress", str(shards), "-o", other, "--html", str(path)]) == 2
        assert "is no page or picture" in one_line(capsys)
    assert cli.run(["compress", str(shards), "--html", str(tmp_path / "shards.hmc.safetensors")]) == 2
    assert "is the model itself" in one_line(capsys)
    assert {path: path.read_bytes() for path in shards.iterdir()} == before
    assert sorted(tmp_path.iterdir()) == [shards]


def test_a_name_that_ends_like_a_folder_is_no_file(tmp_path, capsys):
    assert cli.run(["compress", str(SAMPLE), "-o", str(tmp_path / "none") + os.sep]) == 2
    assert "is a folder: name a file" in one_line(capsys) and not list(tmp_path.iterdir())


def test_a_dry_run_says_that_it_was_one(tmp_path, capsys):
    assert cli.run(["compress", str(SAMPLE), "-o", str(tmp_path / "o"), "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("dry run: nothing was written\n") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compress", "SAMPLE", "--tol", "1e-4", "--target-ratio", "5"], "give tol or target_ratio, not both"),
        (["compare", "SAMPLE", "--inputs", "nothere.npz"], "inputs are those of a network: name it too"),
        (["verify", "FILE", "--inputs", "nothere.npz"], "give --against SOURCE too"),
        (["verify", "FILE", "--against", "SAMPLE", "--inputs", "nothere.npz"], "give --network too"),
    ],
)
def test_no_option_is_ignored(arguments, expected, compressed, capsys):
    names = {"SAMPLE": str(SAMPLE), "FILE": str(compressed)}
    assert cli.run([names.get(word, word) for word in arguments]) == 2
    assert expected in one_line(capsys)


def test_a_network_beside_a_bound_on_weights_is_not_taken_for_bounded(tmp_path, capsys):
    """The file keeps it for load_model and export."""
    output = ["-o", str(tmp_path / "o.hmc.safetensors"), "--tol", "1e-2", "--effort", "fast", "--json"]
    assert cli.run(["compress", str(SAMPLE), "--network", "a.b:c", *output]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metric"] == "weights" and "the tolerance bounds the weights" in report["notes"][0]


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "hmcompress", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and "version" in done.stdout

"""Claims about export and bench: what is written runs elsewhere and computes the same; figures add up."""

import io
import json

import numpy as np
import pytest
import torch
from nn_cases import mlp_file, surrogate_file

import hmcompress
from hmcompress import cli
from hmcompress.commands.programs import optional
from hmcompress.errors import BoundError, SettingsError


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return mlp_file(tmp_path_factory.mktemp("mlp"))


def test_torch_export_runs_at_any_batch_size(network, tmp_path):
    file, model = network
    assert cli.run(["export", str(file), "--torch", str(tmp_path / "m.pt2")]) == 0
    exported = torch.export.load(io.BytesIO((tmp_path / "m.pt2").read_bytes()))
    assert exported.example_inputs is None  # which could be larger than the network
    program = exported.module()
    for batch in (1, 3, 100):
        x = torch.rand(batch, 2)
        torch.testing.assert_close(program(x), model(x), rtol=1e-3, atol=1e-3)


def test_onnx_gives_the_same_in_onnxruntime(network, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file, _ = network
    hmcompress.export(file, onnx=tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    loaded = hmcompress.load_model(file)
    for batch in (1, 5, 4000):
        x = torch.rand(batch, 2)
        (y,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(y, loaded(x).detach(), atol=1e-5)


def test_an_onnx_model_that_differs_is_not_written(network, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    own_and_program = [1e-7] * 6  # of all points, one and two
    distances = iter([*own_and_program, 1e-7, 1e-3])
    monkeypatch.setattr("hmcompress.commands.programs.distance", lambda *_: next(distances))
    with pytest.raises(BoundError, match="ONNX"):
        hmcompress.export(network[0], onnx=tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_two_programs_are_written_or_none(network, tmp_path, monkeypatch):
    def fails(*_):
        raise BoundError("off")

    monkeypatch.setattr("hmcompress.commands.exporting.onnx_bytes", lambda *_: b"onnx")
    monkeypatch.setattr("hmcompress.commands.exporting.program_bytes", fails)
    with pytest.raises(BoundError):
        hmcompress.export(network[0], onnx=tmp_path / "m.onnx", torch=tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_differs_is_not_written(network, tmp_path, monkeypatch):
    distances = iter([1e-7, 1e-7, 1e-7, 1e-3])  # on all points as torch, on one not
    monkeypatch.setattr("hmcompress.commands.programs.distance", lambda *_: next(distances))
    with pytest.raises(BoundError, match=r"torch.export program is off by 0\.001 on 1 samples"):
        hmcompress.export(network[0], torch=tmp_path / "m.pt2")
    assert not (tmp_path / "m.pt2").exists()


def test_nothing_to_export_is_one_line_and_exit_code_2(network, capsys):
    assert cli.run(["export", str(network[0])]) == 2
    assert capsys.readouterr().err == "hmcompress: nothing to export: give --onnx OUT or --torch OUT\n"


def test_a_missing_extra_is_one_line():
    with pytest.raises(SettingsError, match=r"pip install 'hmcompress\[onnx\]'"):
        optional("no_such_runtime")


def test_an_existing_file_is_kept(network, tmp_path):
    (tmp_path / "m.pt2").write_text("mine")
    assert cli.run(["export", str(network[0]), "--torch", str(tmp_path / "m.pt2")]) == 2
    assert (tmp_path / "m.pt2").read_text() == "mine"


def test_bench_of_a_network_shows_its_layers_and_its_total(network, capsys):
    assert cli.run(["bench", str(network[0]), "--batch", "1", "--batch", "64", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["layer"] for row in report["rows"]} == {"0.weight", "2.weight", "4.weight"}
    assert [row["batch"] for row in report["totals"]] == [1, 64]
    total = report["totals"][0]
    assert total["form"] == "slim" and total["bytes"] < total["dense_bytes"] / 4
    assert total["bytes"] == sum(row["bytes"] for row in report["rows"] if row["batch"] == 1)


def test_bench_of_a_checkpoint_adds_up_its_layers(tmp_path, capsys):
    file, _ = surrogate_file(tmp_path)
    assert cli.run(["bench", str(file), "--batch", "16", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["totals"][0]["dense_seconds"] == pytest.approx(sum(r["dense_seconds"] for r in report["rows"]))
    assert all(row["seconds"] == row["dense_seconds"] for row in report["rows"] if row["form"] == "dense")
    assert cli.run(["bench", str(file), "--batch", "16"]) == 0
    assert "all layers" in capsys.readouterr().out

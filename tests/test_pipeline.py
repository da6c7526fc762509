"""From a saved model to a compressed file and back."""

import math
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

import hmcompress
from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import FormatError, OutputError, SettingsError, SourceError
from hmcompress.network.owned import kept
from hmcompress.pipeline import default_output
from hmcompress.settings.config import load_settings

GENERATOR = torch.Generator().manual_seed(0)


def noise(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64).to(dtype)


@pytest.fixture(scope="module")
def checkpoint():
    """A training checkpoint with most of what people save."""
    embedding = noise(60, 20)
    state = OrderedDict(
        [
            ("embed.weight", embedding),
            ("body.weight", noise(70, 80, dtype=torch.bfloat16)),
            ("body.bias", noise(70)),
            ("conv.weight", noise(24, 3, 3, 3).double()),
            ("experts", noise(3, 16, 24).half()),
            ("steps", torch.tensor(7)),
            ("head.weight", embedding),
        ]
    )
    return {
        "epoch": 3,
        "loss": math.inf,
        "args": {"lr": 1e-3, "names": ["a", "b"], "shape": (1, 2)},
        "model_state_dict": state,
        "optimizer": {
            "state": {0: {"exp_avg": noise(60, 20), "step": 5}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
    }


@pytest.fixture(scope="module")
def source(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "model.pt"
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def compressed(source, tmp_path):
    path = tmp_path / "model.hmc.safetensors"
    hmcompress.compress(source, path, tol=1e-2)
    return path


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def test_state_dict_has_the_keys_order_shapes_and_dtypes_of_the_source(checkpoint, compressed):
    back = hmcompress.load_state_dict(compressed, prefix="model_state_dict")
    state = checkpoint["model_state_dict"]
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert back[name].shape == tensor.shape and back[name].dtype == tensor.dtype
        assert relative(back[name], tensor) <= 1e-2


def test_what_is_no_layer_comes_back_bit_for_bit(checkpoint, compressed):
    back = hmcompress.load_state_dict(compressed)
    state = checkpoint["model_state_dict"]
    assert torch.equal(back["model_state_dict.body.bias"], state["body.bias"])
    assert torch.equal(back["model_state_dict.steps"], state["steps"])
    assert torch.equal(back["optimizer.state.0.exp_avg"], checkpoint["optimizer"]["state"][0]["exp_avg"])


def test_tied_weights_are_stored_once_and_tied_again(checkpoint, compressed, source):
    back = hmcompress.load_state_dict(compressed, prefix="model_state_dict")
    assert back["head.weight"].data_ptr() == back["embed.weight"].data_ptr()
    assert (
        sum(layer.name.endswith(("head.weight", "embed.weight")) for layer in hmcompress.read_report(compressed).layers)
        == 1
    )


def test_a_tied_weight_that_is_excluded_by_its_other_name_comes_back_bit_for_bit(checkpoint, source, tmp_path):
    names = [f"model_state_dict.{name}.weight" for name in ("embed", "head")]
    state = checkpoint["model_state_dict"]
    for name in names:
        file = tmp_path / f"{name}.hmc.safetensors"
        hmcompress.compress(source, file, tol=1e-1, exclude=name)
        back = hmcompress.load_state_dict(file)
        assert all(torch.equal(back[n], state["embed.weight"]) for n in names)
        assert names[0] in kept(open_checkpoint(source), load_settings(None, {"exclude": name}))  # of outputs


def test_plain_values_come_back_in_the_same_nest(checkpoint, compressed, tmp_path):
    for whole in (hmcompress.load_checkpoint(compressed), restored(compressed, tmp_path / "out.pt")):
        assert list(whole) == list(checkpoint)
        assert {k: whole[k] for k in ("epoch", "loss", "args")} == {k: checkpoint[k] for k in ("epoch", "loss", "args")}
        assert list(whole["model_state_dict"]) == list(checkpoint["model_state_dict"])
        assert whole["optimizer"]["param_groups"] == checkpoint["optimizer"]["param_groups"]
        assert whole["optimizer"]["state"][0]["step"] == 5
        tied = whole["model_state_dict"]
        assert tied["head.weight"].data_ptr() == tied["embed.weight"].data_ptr()


def restored(compressed, path):
    hmcompress.decompress(compressed, path)
    return torch.load(path, weights_only=True)


def test_decompressed_safetensors_hold_every_tensor(compressed, tmp_path):
    lacking = hmcompress.decompress(compressed, tmp_path / "out.safetensors")
    assert len(lacking) == 2 and "plain values" in lacking[0] and "1 tied" in lacking[1]
    back, expected = load_file(tmp_path / "out.safetensors"), hmcompress.load_state_dict(compressed)
    assert set(back) == set(expected)
    assert all(torch.equal(back[name], tensor) for name, tensor in expected.items())


def test_nothing_is_lacking_where_there_was_nothing_but_tensors(tmp_path):
    torch.save({"a": {3: {"w": noise(20, 20)}, "b": noise(4)}}, tmp_path / "m.pt")
    hmcompress.compress(tmp_path / "m.pt", tol=1e-2)
    assert hmcompress.decompress(tmp_path / "m.hmc.safetensors", tmp_path / "out.safetensors") == ()


def test_views_that_would_be_huge_as_copies_stay_views(tmp_path):
    """A few bytes expanded to gigabytes: refused as .safetensors, kept as .pt."""
    base = torch.randn(4)
    views = {f"v{i}": base[:1].expand(4_000_000 + i) for i in range(20)}
    torch.save({"base": base, **views}, tmp_path / "m.pt")
    hmcompress.compress(tmp_path / "m.pt", tmp_path / "c.hmc.safetensors")
    with pytest.raises(OutputError, match=r"views of 16 bytes of tensors would take 320,000,776 bytes.*write \.pt"):
        hmcompress.decompress(tmp_path / "c.hmc.safetensors", tmp_path / "out.safetensors")
    hmcompress.decompress(tmp_path / "c.hmc.safetensors", tmp_path / "out.pt")
    assert (tmp_path / "out.pt").stat().st_size < 10_000
    assert torch.load(tmp_path / "out.pt")["v3"].stride() == (0,) and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["out.pth.tar", "out.model", "OUT.CKPT"])
def test_decompress_takes_the_usual_names_of_checkpoints(compressed, tmp_path, name):
    hmcompress.decompress(compressed, tmp_path / name)
    assert torch.load(tmp_path / name).keys() == hmcompress.load_checkpoint(compressed).keys()


def test_decompress_refuses_other_names_and_existing_files(compressed, tmp_path):
    with pytest.raises(OutputError, match="name it"):
        hmcompress.decompress(compressed, tmp_path / "out.txt")
    (tmp_path / "out.pt").write_text("old")
    with pytest.raises(OutputError, match="--force"):
        hmcompress.decompress(compressed, tmp_path / "out.pt")
    hmcompress.decompress(compressed, tmp_path / "out.pt", force=True)
    with pytest.raises(OutputError, match="source itself"):
        hmcompress.decompress(compressed, compressed, force=True)


def test_report_of_the_file_is_the_report_of_the_compression(source, compressed, tmp_path):
    said = hmcompress.compress(source, compressed, tol=1e-2, force=True)
    read = hmcompress.read_report(compressed)
    assert said.output_bytes == read.output_bytes == compressed.stat().st_size
    assert (said.tol, said.norm, said.metric, said.other) == (read.tol, read.norm, read.metric, read.other)
    for a, b in zip(said.layers, read.layers, strict=True):
        assert (a.name, a.shape, a.dtype, a.stored_bytes, a.method, a.leaves) == (
            b.name, b.shape, b.dtype, b.stored_bytes, b.method, b.leaves,
        )  # fmt: skip
        assert a.error <= b.error <= a.error * (1 + 2e-4) and b.error <= b.tol
    assert said.source_bytes == source.stat().st_size and read.source == "model.pt"


def test_repeated_runs_and_any_number_of_jobs_give_the_same_bytes(source, tmp_path):
    for jobs in (1, 2, 5):
        hmcompress.compress(source, tmp_path / f"{jobs}", tol=1e-3, jobs=jobs)
    files = [(tmp_path / f"{jobs}").read_bytes() for jobs in (1, 2, 5)]
    assert files[0] == files[1] == files[2]


def test_dry_run_says_the_same_and_writes_nothing(source, tmp_path):
    counted = hmcompress.compress(source, tmp_path / "f", tol=1e-2, dry_run=True)
    assert not (tmp_path / "f").exists()
    assert counted.output_bytes == hmcompress.compress(source, tmp_path / "f", tol=1e-2).output_bytes


def test_drop_leaves_the_optimizer_out_of_tensors_and_nest(checkpoint, source, tmp_path):
    report = hmcompress.compress(source, tmp_path / "f", tol=1e-2, drop=["optimizer*"])
    assert any("dropped on request" in line for line in report.left_behind)
    assert not any(name.startswith("optimizer") for name in hmcompress.load_state_dict(tmp_path / "f"))
    whole = hmcompress.load_checkpoint(tmp_path / "f")
    assert whole["epoch"] == 3 and list(whole["model_state_dict"]) == list(checkpoint["model_state_dict"])
    assert hmcompress.verify(tmp_path / "f", source).passed


def test_dropping_everything_is_an_error(source, tmp_path):
    with pytest.raises(SettingsError, match="every tensor"):
        hmcompress.compress(source, tmp_path / "f", tol=1e-2, drop=["*"])


def test_dry_run_minds_no_output(source, tmp_path):
    assert hmcompress.compress(source, tmp_path / "no" / "folder" / "f", tol=1e-2, dry_run=True).output_bytes


def test_what_lossless_tensors_cost_is_said_where_they_are_most(tmp_path):
    state = {"layer.weight": torch.randn(64, 64), "optimizer.state.exp_avg": torch.randn(200, 200)}
    torch.save(state, tmp_path / "m.pt")
    told = hmcompress.compress(tmp_path / "m.pt", tol=1e-2, force=True).notes
    assert [("optimizer..." in line, "--drop" in line) for line in told] == [(True, True)]
    assert not hmcompress.compress(tmp_path / "m.pt", tol=1e-2, force=True, drop=["optimizer*"]).notes


def test_no_name_is_singled_out_among_many_of_one_size(tmp_path):
    torch.save({f"t{i}": torch.randn(2000) for i in range(20)}, tmp_path / "m.pt")
    (told,) = hmcompress.compress(tmp_path / "m.pt", tol=1e-2, force=True).notes
    assert told.startswith("100% of what is stored are tensors kept lossless: --drop")
    assert told.endswith("--include makes small matrices and long vectors layers")


def test_dropped_base_of_a_kept_tie_stays(source, tmp_path):
    hmcompress.compress(source, tmp_path / "f", tol=1e-2, drop=["*embed.weight"])
    back = hmcompress.load_state_dict(tmp_path / "f", prefix="model_state_dict")
    assert back["head.weight"].shape == (60, 20)


def test_rules_reach_the_file(source, tmp_path):
    rules = [{"match": "*body*", "tol": 1e-1}, {"match": "re:.*experts", "keep": True}]
    report = hmcompress.compress(source, tmp_path / "f", tol=1e-2, layers=rules)
    assert {layer.name.split(".", 1)[1]: layer.tol for layer in report.layers} == {
        "embed.weight": 1e-2, "body.weight": 1e-1, "conv.weight": 1e-2,
    }  # fmt: skip
    assert hmcompress.verify(tmp_path / "f", source).passed


@pytest.mark.parametrize("norm", ["fro", "spectral", "max"])
def test_every_norm_keeps_its_bound(source, tmp_path, norm):
    report = hmcompress.compress(source, tmp_path / "f", tol=1e-2, norm=norm)
    assert report.passed and report.norm == norm
    assert hmcompress.verify(tmp_path / "f", source).passed


@pytest.mark.parametrize("effort", ["fast", "max"])
def test_every_effort_keeps_its_bound(source, tmp_path, effort):
    hmcompress.compress(source, tmp_path / "f", tol=1e-2, effort=effort)
    assert hmcompress.verify(tmp_path / "f", source).passed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_in_one_slice_keeps_the_whole_stack(bad, tmp_path):
    w = torch.randn(3, 20, 24, generator=torch.Generator().manual_seed(0))
    w[1, 2, 3] = bad
    w[2] = torch.where(torch.arange(24) % 2 == 0, torch.tensor(-0.0), torch.round(4 * w[2]))  # kept as whole numbers
    torch.save({"w": w}, tmp_path / "m.pt")
    report = hmcompress.compress(tmp_path / "m.pt", tmp_path / "f", tol=1e-2)
    assert [note for note in report.notes if note.startswith("w: holds nan or inf")]
    assert report.layers[0].error == 0 and hmcompress.verify(tmp_path / "f", tmp_path / "m.pt").passed
    restored = hmcompress.load_state_dict(tmp_path / "f")["w"]
    assert torch.equal(restored[:2].view(torch.int32), w[:2].view(torch.int32)) and torch.equal(restored[2], w[2])


def test_weight_with_nan_is_kept_lossless_and_said(tmp_path):
    weight = noise(40, 40)
    weight[3, 4], weight[5, 6] = math.nan, -math.inf
    torch.save({"w": weight, "v": noise(40, 40)}, tmp_path / "m.pt")
    report = hmcompress.compress(tmp_path / "m.pt", tol=1e-2)
    assert [note for note in report.notes if note.startswith("w:") and "nan" in note]
    assert report.layers[0].method in ("lossless", "raw") and report.layers[0].error == 0
    back = hmcompress.load_state_dict(tmp_path / "m.hmc.safetensors")["w"]
    assert torch.equal(back.view(torch.int32), weight.view(torch.int32))
    assert hmcompress.verify(tmp_path / "m.hmc.safetensors", tmp_path / "m.pt").passed
    assert hmcompress.read_report(tmp_path / "m.hmc.safetensors").notes == report.notes


def test_slices_of_a_stack_keep_the_tolerance_each(tmp_path):
    stack = noise(4, 40, 50) * torch.tensor([1.0, 1e-3, 1e3, 0.0])[:, None, None]
    save_file({"stack": stack}, tmp_path / "m.safetensors")
    hmcompress.compress(tmp_path / "m.safetensors", tol=1e-2)
    back = hmcompress.load_state_dict(tmp_path / "m.hmc.safetensors")["stack"]
    assert all(relative(back[i], stack[i]) <= 1e-2 for i in range(3)) and not back[3].any()


def test_bare_tensor_and_module_are_sources_too(tmp_path):
    torch.save(noise(40, 40), tmp_path / "t.pt")
    hmcompress.compress(tmp_path / "t.pt", tol=1e-2)
    assert list(hmcompress.load_state_dict(tmp_path / "t.hmc.safetensors")) == ["tensor"]
    assert hmcompress.load_checkpoint(tmp_path / "t.hmc.safetensors").shape == (40, 40)
    torch.save(torch.nn.Sequential(torch.nn.Linear(32, 40), torch.nn.Tanh()), tmp_path / "m.pt")
    hmcompress.compress(tmp_path / "m.pt", tol=1e-2)
    assert list(hmcompress.load_state_dict(tmp_path / "m.hmc.safetensors")) == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.pt", "model.hmc.safetensors"),
        ("a.b.ckpt", "a.b.hmc.safetensors"),
        ("model.pth.tar", "model.hmc.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.hmc.safetensors"),
        ("weights", "weights.hmc.safetensors"),
        ("model.v1.pkl", "model.v1.hmc.safetensors"),
        ("program.pt2", "program.hmc.safetensors"),
        ("agent.zip", "agent.hmc.safetensors"),
        ("model.tar.gz", "model.hmc.safetensors"),
        ("model.nemo", "model.hmc.safetensors"),
        ("x.npz", "x.hmc.safetensors"),
    ],
)
def test_default_output_lies_beside_the_source(tmp_path, name, expected):
    assert default_output(tmp_path / name) == tmp_path / expected


def test_default_output_of_a_folder_keeps_its_name(tmp_path):
    (tmp_path / "v1.bin").mkdir()
    assert default_output(tmp_path / "v1.bin") == tmp_path / "v1.bin.hmc.safetensors"


def test_mistakes_are_told_before_any_work(source, compressed, tmp_path):
    with pytest.raises(OutputError, match="--force"):
        hmcompress.compress(source, compressed)
    with pytest.raises(SourceError, match="compressed already"):
        hmcompress.compress(compressed, tmp_path / "f")
    with pytest.raises(SettingsError, match="matches no tensor"):
        hmcompress.compress(source, tmp_path / "f", drop=["nothing*"])
    with pytest.raises(SettingsError):
        hmcompress.compress(source, tmp_path / "f", settings=load_settings(None, {}), tol=1e-2)
    with pytest.raises(SourceError):
        hmcompress.compress(tmp_path / "missing.pt")
    with pytest.raises(SettingsError, match="no tensor lies below"):
        hmcompress.load_state_dict(compressed, prefix="modell")
    with pytest.raises(FormatError, match="not a compressed"):
        hmcompress.load_state_dict(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.hmc.safetensors"]


def test_what_is_no_name_of_a_file_is_told(checkpoint, source, compressed, tmp_path):
    with source.open("rb") as file:
        for other in (file, checkpoint, None, b"model.pt"):
            with pytest.raises(
                SourceError, match=f"name of a file is expected, not a {type(other).__name__}; torch.save"
            ):
                hmcompress.compress(other, tmp_path / "f")
            with pytest.raises(FormatError, match="name of a file is expected, not a"):
                hmcompress.load_state_dict(other)
            if other is not None:
                with pytest.raises(SourceError, match="name of a file is expected, not a"):
                    hmcompress.verify(compressed, other)


def test_progress_counts_every_byte_once(source, tmp_path):
    calls = []
    hmcompress.compress(source, tmp_path / "f", tol=1e-2, progress=lambda *call: calls.append(call))
    done = [call[1] for call in calls]
    assert done == sorted(done) and done[-1] == calls[-1][2] > 0


@pytest.mark.parametrize("ratio", [3.0, 6.0])
def test_target_ratio_is_reached_closely(tmp_path, ratio):
    torch.save({f"{i}.weight": noise(120, 130) for i in range(3)}, tmp_path / "m.pt")
    report = hmcompress.compress(tmp_path / "m.pt", target_ratio=ratio)
    assert ratio <= report.ratio <= 1.03 * ratio
    assert hmcompress.read_report(tmp_path / "m.hmc.safetensors").tol == report.tol


def test_impossible_target_ratio_writes_nothing(source, tmp_path):
    with pytest.raises(hmcompress.BoundError, match="cannot be reached"):
        hmcompress.compress(source, tmp_path / "f", target_ratio=1e6)
    assert not (tmp_path / "f").exists()


def test_public_names_are_these():
    assert sorted(hmcompress.__all__) == dir(hmcompress)
    assert all(getattr(hmcompress, name) is not None for name in hmcompress.__all__)


def test_a_device_that_is_not_here_is_one_clear_line(tmp_path):
    torch.save({"w": torch.randn(32, 32)}, tmp_path / "m.pt")
    with pytest.raises(SettingsError, match="device cuda:99 is not on this machine: use cpu"):
        hmcompress.compress(tmp_path / "m.pt", device="cuda:99")


def test_what_is_dropped_may_be_named_in_the_outputs_metric_too(tmp_path):
    torch.manual_seed(0)
    tensors = {f"net.{i}.{k}": v for i, s in ((0, (16, 1)), (2, (1, 16))) for k, v in (
        ("weight", torch.randn(s)), ("bias", torch.randn(s[0])))}  # fmt: skip
    torch.save({"model": tensors, "optimizer": {"m": torch.randn(16)}}, tmp_path / "m.pt")
    options = {
        "metric": "outputs", "network": {"mlp": {"activation": "tanh"}}, "ntk": False, "effort": "fast",
        "calibration": {"domain": {"x": [-1, 1]}, "samples": 256}, "drop": ["optimizer*"], "tol": 1e-2,
    }  # fmt: skip
    assert hmcompress.compress(tmp_path / "m.pt", **options).network.error <= 1e-2


def test_a_source_that_is_not_there_is_told_before_its_folder(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        hmcompress.compress(tmp_path / "no" / "model.pt")


def test_an_empty_output_is_no_default(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "m.pt")
    with pytest.raises(OutputError, match="is a folder"):
        hmcompress.compress(tmp_path / "m.pt", "")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


@pytest.mark.parametrize("shapes", [{"w": (0,)}, {"w": (0, 3), "b": (0,)}])
def test_a_model_of_empty_tensors_comes_back(tmp_path, shapes):
    torch.save({name: torch.empty(shape) for name, shape in shapes.items()}, tmp_path / "m.pt")
    hmcompress.compress(tmp_path / "m.pt", tmp_path / "m.hmc.safetensors", tol=1e-2)
    found = hmcompress.load_state_dict(tmp_path / "m.hmc.safetensors")
    assert {name: tuple(t.shape) for name, t in found.items()} == shapes

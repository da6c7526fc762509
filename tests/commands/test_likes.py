"""Layers that are like others: found by few numbers, stored as what they differ by, to the same bound."""

import itertools
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

import hmcompress
from hmcompress.checkpoint import open_checkpoint
from hmcompress.commands.encoding import encode_layer
from hmcompress.commands.likes import choose, find_bases, saved_bits
from hmcompress.commands.standing import Like, matrix_of
from hmcompress.container import CompressedFile
from hmcompress.container.based import is_based
from hmcompress.container.payload import decode_layer, join
from hmcompress.hmatrix import compress_matrix, measure_error
from hmcompress.settings.config import LayerRule


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(count: int, share: float, shape: tuple[int, int] = (96, 64)) -> dict[str, torch.Tensor]:
    """Copies of one layer that trained apart: each is off by `share` of its norm."""
    first = noise(*shape, seed=99)
    return {f"layers.{i}.weight": first + share * noise(*shape, seed=i) for i in range(count)}


def saved(tensors, path):
    torch.save(tensors, path)
    return path


def bytes_of(report) -> dict[str, int]:
    return {layer.name: layer.stored_bytes for layer in report.layers}


def test_those_who_save_the_others_most_stand_alone():
    x = noise(6, 400).double().numpy()
    star = np.concatenate([x[:1] + 0.2 * noise(5, 400, seed=1).numpy(), x[3:]])  # five copies, three others
    bases = choose(saved_bits(star))
    assert len(set(bases[:5]) - {-1}) == 1 and (bases[:5] == -1).sum() == 1 and (bases[5:] == -1).all()


def test_averages_of_weights_stand_on_their_own_layer():
    weights = noise(20, 400).double().numpy()
    bases = choose(saved_bits(np.concatenate([weights, weights + 0.01 * noise(20, 400, seed=1).numpy()])))
    for i in range(20):
        assert {int(bases[i]), int(bases[20 + i])} in ({-1, i}, {-1, 20 + i})


def test_layers_that_stand_on_another_one_are_stood_on_by_none():
    places = noise(40, 3).numpy()  # so that layers are like many others, each as much as it is near
    bases = choose(saved_bits(np.concatenate([places] * 3, 1)))
    assert (bases >= 0).any() and (bases[bases[bases >= 0]] == -1).all()


def test_layers_of_noise_stand_alone(tmp_path):
    checkpoint = open_checkpoint(saved({f"{i}.weight": noise(80, 64, seed=i) for i in range(9)}, tmp_path / "m.pt"))
    rules = {name: LayerRule(match="*", tol=1e-2, norm="fro") for name in checkpoint.entries}
    assert find_bases(checkpoint.entries, rules) == {}


def test_layers_are_compared_in_one_thread(monkeypatch):
    seen = []

    def look(a, value):
        seen.extend(library["num_threads"] for library in threadpool_info())

    monkeypatch.setattr(np, "fill_diagonal", look)
    with threadpool_limits(2):
        saved_bits(noise(3, 400).double().numpy())
    assert seen and set(seen) == {1}


@pytest.mark.parametrize("number", [0.0, float("nan"), float("inf")])
def test_what_cannot_be_compared_stands_alone(number):
    with np.errstate(all="raise"):
        assert (choose(saved_bits(np.full((3, 50), number))) == -1).all()


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e300])
def test_layers_of_any_size_are_compared(size):
    with np.errstate(all="raise", under="ignore"):
        assert (choose(saved_bits(size * noise(1, 50).double().numpy().repeat(3, 0))) >= 0).sum() == 2


@pytest.mark.parametrize("norm", ["fro", "max", "spectral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_bound_holds_and_is_used(norm, dtype):
    first, second = (w.to(dtype) for w in apart(2, 0.1).values())
    rule = LayerRule(match="*", tol=2e-2, norm=norm)
    like = Like(0, partial(matrix_of, encode_layer("first", first, rule)))
    alone, layer = encode_layer("second", second, rule), encode_layer("second", second, rule, like=like)
    assert is_based(layer.payload) and len(layer.payload) < 0.75 * len(alone.payload)
    decoded = decode_layer(layer.payload, [(96, 64)], dtype, lambda number: like.matrix())[0]
    assert decoded.dtype == dtype
    error, largest = measure_error(second, decoded, norm)
    assert 0.9 * rule.tol < error <= rule.tol
    assert (layer.row.error, layer.row.max_abs_error) == (error, largest)


def test_a_second_copy_costs_next_to_nothing(tmp_path):
    weight = noise(256, 128)
    source = saved({"model.weight": weight, "ema.weight": weight + 1e-4 * noise(256, 128, seed=1)}, tmp_path / "m.pt")
    one, other = sorted(bytes_of(hmcompress.compress(source, tmp_path / "m", tol=1e-2)).values())
    assert one < 40 and other > 20000


def test_layers_of_an_encoder_take_fewer_bytes_and_keep_their_bounds(tmp_path):
    layer = nn.TransformerEncoderLayer(64, 2, 128)
    encoder = nn.TransformerEncoder(
        layer, 3, enable_nested_tensor=False
    ).state_dict()  # copies of one layer, in its words
    trained = {name: w + 0.02 * noise(*w.shape, seed=i) for i, (name, w) in enumerate(encoder.items())}
    source, file = saved(trained, tmp_path / "m.pt"), tmp_path / "m.hmc.safetensors"
    report = hmcompress.compress(source, file, tol=1e-2)
    fast = hmcompress.compress(source, tmp_path / "fast", tol=1e-2, effort="fast")
    assert sum(bytes_of(report).values()) < 0.87 * sum(bytes_of(fast).values())
    assert hmcompress.verify(file, source).passed
    back = hmcompress.load_state_dict(file)
    assert list(back) == list(trained)
    for entry in report.layers:
        w, q = trained[entry.name].double(), back[entry.name].double()
        assert (w - q).norm() <= 1e-2 * w.norm()


def test_a_model_of_such_layers_runs_and_is_decompressed(tmp_path):
    layers = [nn.Linear(256, 256, bias=False) for _ in range(3)]
    for layer, w in zip(layers, apart(3, 0.2, (256, 256)).values(), strict=True):
        layer.weight = nn.Parameter(w)
    source, file = saved(nn.Sequential(*layers).state_dict(), tmp_path / "m.pt"), tmp_path / "m.hmc.safetensors"
    hmcompress.compress(source, file, tol=0.1)  # so coarsely that other forms than dense are looked for
    model = hmcompress.load_model(file, nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(3))))
    back = hmcompress.load_state_dict(file)
    hmcompress.decompress(file, tmp_path / "back.pt")
    restored = torch.load(tmp_path / "back.pt", weights_only=True)
    for same in (model.state_dict(), restored):
        assert all(torch.equal(back[name], w) for name, w in same.items()) and len(same) == 3


def test_files_do_not_depend_on_the_number_of_jobs(tmp_path):
    source = saved(apart(12, 0.2, (160, 256)) | {"x": noise(160, 256, seed=50)}, tmp_path / "m.pt")
    for jobs in (1, 2):
        hmcompress.compress(source, tmp_path / f"{jobs}", tol=1e-2, jobs=jobs)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert any(is_based(file.payload(row)) for file in [CompressedFile.open(tmp_path / "1")] for row in file.layers)


def test_layers_of_other_rules_do_not_stand_on_each_other(tmp_path):
    source, settings = saved(apart(2, 0.1), tmp_path / "m.pt"), tmp_path / "s.yaml"
    settings.write_text("tol: 1.0e-2\nlayers: [{match: layers.0.weight, tol: 0.1}]")
    hmcompress.compress(source, tmp_path / "m", config=settings)
    file = CompressedFile.open(tmp_path / "m")
    assert not any(is_based(file.payload(row)) for row in file.layers)


def test_progress_counts_every_byte_once(tmp_path):
    source, calls = saved(apart(5, 0.2), tmp_path / "m.pt"), []
    hmcompress.compress(source, tmp_path / "m", tol=1e-2, progress=lambda *call: calls.append(call))
    done = [so_far for _, so_far, _ in calls]
    assert len({name for name, *_ in calls}) == 5 and calls[-1][1] == calls[-1][2]
    assert all(after - before == 96 * 64 * 4 for before, after in itertools.pairwise([0, *done]))


def test_a_layer_with_structure_stays_one_where_another_one_tells_little_more():
    x = torch.linspace(0, 1, 64)
    kernels = [1 / ((x[:, None] - x[None]).abs() + scale / 64) for scale in (1.0, 1.05)]
    rule = LayerRule(match="*", tol=1e-3, norm="fro")
    like = Like(0, partial(matrix_of, encode_layer("first", kernels[0], rule)))
    alone, layer = encode_layer("second", kernels[1], rule), encode_layer("second", kernels[1], rule, like=like)
    assert not is_based(layer.payload) or 2 * len(layer.payload) < len(alone.payload)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_slices_that_are_like_others_stand_on_them_and_keep_the_bound_each(dtype):
    experts = torch.stack([*apart(6, 0.1).values(), noise(96, 64, seed=70)]).to(dtype)
    rule = LayerRule(match="*", tol=2e-2, norm="fro")
    layer = encode_layer("experts", experts, rule)
    apart_bytes = sum(len(encode_layer("expert", w, rule).payload) for w in experts)
    assert len(layer.payload) < 0.7 * apart_bytes
    decoded = decode_layer(layer.payload, [tuple(experts.shape)], dtype)[0]
    errors = [measure_error(w, q)[0] for w, q in zip(experts, decoded, strict=True)]
    assert max(errors) <= rule.tol and layer.row.error == max(errors)


def test_stacks_of_noise_and_fast_ones_are_as_they_were():
    rule, stack = LayerRule(match="*", tol=2e-2, norm="fro"), torch.stack(list(apart(3, 0.1).values()))
    for tensor, effort in ((noise(3, 96, 64), "default"), (stack, "fast")):
        layer = encode_layer("stack", tensor, rule, effort)
        slices = [compress_matrix(w, rule.tol, effort=effort).payload for w in tensor]
        assert layer.payload == join(slices)


def test_slices_that_come_again_cost_two_bytes_and_others_may_stand_on_them():
    first, *others = apart(4, 0.1).values()
    rule = LayerRule(match="*", tol=2e-2, norm="fro")
    once, often = (len(encode_layer("s", torch.stack([*others, *[first] * times]), rule).payload) for times in (2, 6))
    assert often == once + 2 * 4
    assert once < 0.9 * sum(len(encode_layer("s", w, rule).payload) for w in (first, *others))


@pytest.mark.parametrize("kind", ["transposed", "packed"])
def test_like_layers_are_found_however_their_weights_lie(kind, tmp_path):
    """Weights that cannot be glanced at are read."""
    tensors = apart(3, 0.05)
    if kind == "transposed":
        tensors["layers.1.weight"] = tensors["layers.1.weight"].T.contiguous().T
    path = saved(tensors, tmp_path / "m.pt")
    if kind == "packed":
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "p.pt", "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        path = tmp_path / "p.pt"
    entries = open_checkpoint(path).entries
    rules = {name: LayerRule(match=name, tol=1e-2, norm="fro") for name in entries}
    assert len(find_bases(entries, rules)) == 2


def test_a_layer_that_cannot_be_read_is_like_none_until_it_is_coded(tmp_path):
    tensors = {name: tensor.T for name, tensor in apart(2, 0.05).items()}
    path = saved(tensors, tmp_path / "m.pt")
    entries = open_checkpoint(path).entries
    path.unlink()
    assert find_bases(entries, {name: LayerRule(match=name, tol=1e-2, norm="fro") for name in entries}) == {}

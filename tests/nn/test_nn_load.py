"""Claims about load_model: the right function in the fastest form, never slower than dense, trainable."""

import copy

import pytest
import torch
from nn_cases import Surrogate, kernel, layer, low_rank, mlp_file, relative, surrogate_file
from torch import nn

import hmcompress
from hmcompress.errors import NetworkError
from hmcompress.nn import HLinear, resident_bytes
from hmcompress.nn.choose import Stopwatch, Timing
from hmcompress.nn.load import load


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    return surrogate_file(tmp_path_factory.mktemp("surrogate"))


SIZES = ((128, 128), ((4, 3, 2),))  # of leaves, and of levels


@pytest.fixture
def structured_is_fast(monkeypatch):
    """Timings depend on the machine; here a hierarchy is three times as fast as dense, any other form twice."""

    def measured(self, form, dtype):
        return tuple(Timing(b, 6.0, 2.0 if isinstance(form, HLinear) else 3.0) for b in self.batches)

    monkeypatch.setattr(Stopwatch, "_measured", measured)


@pytest.fixture
def structured_is_slow(monkeypatch):
    monkeypatch.setattr(Stopwatch, "_measured", lambda self, form, dtype: (Timing(1, 5.0, 1.0), Timing(16, 1.0, 1.01)))


def test_the_operator_runs_as_a_hierarchy_and_the_rest_dense(compressed, structured_is_fast):
    file, original = compressed
    loaded = load(file, Surrogate())
    assert isinstance(loaded.module.operator, HLinear)
    assert type(loaded.module.encode) is nn.Linear and type(loaded.module.head[0]) is nn.Linear
    x = torch.randn(50, 8)
    assert relative(loaded.module(x), original(x)) < 1e-2
    (record,) = [entry for entry in loaded.layers if entry.form == "hmatrix"]
    assert record.bytes < record.dense_bytes / 3 and 0 < record.extra_error <= 0.5e-4
    assert relative(loaded.module.operator.weight, original.operator.weight) < 1.5e-4


def test_no_form_is_taken_that_is_slower_at_any_batch_size(compressed, structured_is_slow):
    module = hmcompress.load_model(compressed[0], Surrogate())
    assert type(module.operator) is nn.Linear


def test_slack_zero_keeps_every_layer_as_stored(compressed, structured_is_fast):
    module = hmcompress.load_model(compressed[0], Surrogate(), slack=0)
    stored = hmcompress.load_state_dict(compressed[0])
    assert all(torch.equal(value, stored[name]) for name, value in module.state_dict().items())


def test_a_module_without_memory_is_filled(compressed, structured_is_fast):
    with torch.device("meta"):
        skeleton = Surrogate()
    module, twin = (hmcompress.load_model(compressed[0], m) for m in (skeleton, Surrogate()))
    x = torch.randn(4, 8)
    assert not any(p.is_meta for p in module.parameters())
    torch.testing.assert_close(module(x), twin(x))
    assert resident_bytes(module) < resident_bytes(Surrogate()) / 2


def test_two_networks_that_fit_alike_are_not_guessed_between(tmp_path):
    """Online and target network, generator and its average: usual prefixes win, of others none is taken silently."""
    one, other = nn.Linear(64, 64), nn.Linear(64, 64)
    torch.save({"target": one.state_dict(), "online": other.state_dict()}, tmp_path / "run.pt")
    hmcompress.compress(tmp_path / "run.pt", tmp_path / "run.hmc.safetensors")
    with pytest.raises(NetworkError, match=r'several networks .*: online\., target\.; .*prefix="online"\)'):
        hmcompress.load_model(tmp_path / "run.hmc.safetensors", nn.Linear(64, 64))
    torch.save({"ema": one.state_dict(), "model": other.state_dict()}, tmp_path / "ema.pt")
    hmcompress.compress(tmp_path / "ema.pt", tmp_path / "ema.hmc.safetensors")
    module = hmcompress.load_model(tmp_path / "ema.hmc.safetensors", nn.Linear(64, 64))
    assert torch.equal(module.bias, other.bias)


def test_a_prefix_of_the_checkpoint_is_found(compressed, tmp_path):
    _, original = compressed
    torch.save({"model_state_dict": original.state_dict(), "epoch": 3}, tmp_path / "run.pt")
    hmcompress.compress(tmp_path / "run.pt", tmp_path / "run.hmc.safetensors", tol=1e-3, effort="fast")
    module = hmcompress.load_model(tmp_path / "run.hmc.safetensors", Surrogate(), slack=0)
    assert relative(module.operator.weight, original.operator.weight) < 1e-3


def test_tied_weights_stay_tied(tmp_path, structured_is_fast):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(512, 512, bias=False), nn.Linear(512, 512, bias=False)
            self.b.weight = self.a.weight

    original = Tied()
    with torch.no_grad():
        original.a.weight.copy_(low_rank(512, 512))
    torch.save(original.state_dict(), tmp_path / "tied.pt")
    hmcompress.compress(tmp_path / "tied.pt", tmp_path / "tied.hmc.safetensors", tol=1e-3)
    module = hmcompress.load_model(tmp_path / "tied.hmc.safetensors", Tied())
    assert type(module.a) is nn.Linear and module.a.weight is module.b.weight


def test_a_bare_linear_layer_is_returned_in_its_form(tmp_path, structured_is_fast):
    torch.save({"weight": low_rank(512, 512)}, tmp_path / "op.pt")
    hmcompress.compress(tmp_path / "op.pt", tmp_path / "op.hmc.safetensors", tol=1e-4)
    module = hmcompress.load_model(tmp_path / "op.hmc.safetensors", nn.Linear(512, 512, bias=False))
    assert isinstance(module, HLinear)


def test_another_network_is_one_clear_error(compressed):
    with pytest.raises(NetworkError, match="does not fit the module: it lacks"):
        hmcompress.load_model(compressed[0], nn.GRU(3, 3))
    with pytest.raises(NetworkError, match="other shapes"):
        hmcompress.load_model(compressed[0], Surrogate(256))


def test_a_built_in_network_needs_no_code_of_the_user(tmp_path):
    file, original = mlp_file(tmp_path)
    module = hmcompress.load_model(file)
    x = torch.rand(20, 2)
    torch.testing.assert_close(module(x), original(x), rtol=1e-3, atol=1e-3)
    assert [layer.out_features for layer in module.layers] == [15, 15, 1]
    assert all(p.requires_grad and p.dtype == torch.float32 for p in module.parameters())
    assert [m.out_features for m in hmcompress.load_model(file, slim=False).layers] == [40, 40, 1]


def test_fourier_features_that_were_coded_as_a_layer_are_those_of_the_file(tmp_path):
    state = {"B": torch.randn(16, 32), "0.weight": torch.randn(24, 64) / 8, "0.bias": torch.randn(24)}
    torch.save(state | {"2.weight": torch.randn(1, 24), "2.bias": torch.randn(1)}, tmp_path / "m.pt")
    file, network = tmp_path / "m.hmc.safetensors", {"mlp": {"activation": "tanh", "fourier": "B"}}
    report = hmcompress.compress(tmp_path / "m.pt", file, tol=1e-4, network=network)
    assert [layer.name for layer in report.layers] == ["B", "0.weight"]
    module, stored, x = hmcompress.load_model(file), hmcompress.load_state_dict(file), torch.randn(5, 16)
    assert torch.equal(module.features.frequencies, stored["B"])
    features = torch.cat([(x @ stored["B"]).sin(), (x @ stored["B"]).cos()], 1)
    hidden = torch.tanh(features @ stored["0.weight"].T + stored["0.bias"])
    torch.testing.assert_close(module(x), hidden @ stored["2.weight"].T + stored["2.bias"])


def test_a_built_in_network_may_have_tied_layers(tmp_path):
    tied = torch.randn(16, 16)
    state = {"0.weight": torch.randn(16, 2), "2.weight": tied, "4.weight": tied, "6.weight": torch.randn(1, 16)}
    torch.save(state, tmp_path / "m.pt")
    file = tmp_path / "m.hmc.safetensors"
    hmcompress.compress(tmp_path / "m.pt", file, tol=1e-3, network={"mlp": {"activation": "tanh"}})
    module, stored, x = hmcompress.load_model(file), hmcompress.load_state_dict(file), torch.randn(5, 2)
    h = torch.tanh(torch.tanh(torch.tanh(x @ stored["0.weight"].T) @ stored["2.weight"].T) @ stored["4.weight"].T)
    torch.testing.assert_close(module(x), h @ stored["6.weight"].T)


def test_a_linear_operator_is_built_without_a_dense_weight(tmp_path, structured_is_fast, monkeypatch):
    torch.save({"weight": low_rank(512, 512)}, tmp_path / "op.pt")
    hmcompress.compress(tmp_path / "op.pt", tmp_path / "op.hmc.safetensors", tol=1e-4, network={"linear": {}})

    def refuse(*args):
        raise AssertionError("expanded")

    monkeypatch.setattr("hmcompress.hmatrix.HMatrix.to_dense", refuse)
    monkeypatch.setattr("hmcompress.hmatrix.tree.tree.TreeBody.to_dense", refuse)
    module = hmcompress.load_model(tmp_path / "op.hmc.safetensors")
    assert isinstance(module.layers[0], HLinear)
    assert resident_bytes(module) < 512 * 512 * 4 / 3


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-3), (torch.bfloat16, 0.1), (torch.float16, 1e-2)])
def test_the_module_keeps_its_own_dtype(compressed, structured_is_fast, device, dtype, close):
    file, original = compressed
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    module = hmcompress.load_model(file, Surrogate().to(device, dtype))
    assert isinstance(module.operator, HLinear)
    assert {p.dtype for p in module.parameters()} == {dtype} and not any(p.is_meta for p in module.parameters())
    assert relative(module(x.to(dtype)), original(x)) < close


def test_what_was_frozen_stays_frozen(compressed, structured_is_fast):
    module = Surrogate()
    module.operator.weight.requires_grad_(False)
    operator = hmcompress.load_model(compressed[0], module).operator
    assert isinstance(operator, HLinear)
    assert [name for name, p in operator.named_parameters() if p.requires_grad] == ["bias"]
    frozen = hmcompress.load_model(compressed[0], Surrogate().requires_grad_(False))
    assert not any(p.requires_grad for p in frozen.parameters())


def test_a_layer_with_hooks_stays_what_they_hang_on(compressed, structured_is_fast):
    module, seen = Surrogate(), []
    module.operator.register_forward_hook(lambda layer, args, out: seen.append(type(layer)))
    hmcompress.load_model(compressed[0], module)(torch.randn(2, 8))
    assert seen == [nn.Linear]


def test_a_loaded_model_trains(compressed, structured_is_fast):
    module = hmcompress.load_model(compressed[0], Surrogate())
    before = copy.deepcopy(module.state_dict())
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    module(torch.randn(8, 8)).square().mean().backward()
    assert all(p.grad.any() for p in module.parameters())
    optimiser.step()
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert {"operator.near_0", "operator.top", "operator.bias", "encode.weight"} <= changed


def test_the_stopwatch_measures_each_form_once():
    watch, form = Stopwatch((1, 4)), layer(kernel())
    first = watch.timings(form, torch.float32)
    assert watch.timings(form, torch.float32) is first
    assert [t.batch for t in first] == [1, 4] and min(min(t.dense, t.form) for t in first) > 0


def test_the_stopwatch_prefers_the_form_that_is_fastest_overall(monkeypatch):
    times = {"a": (2.0, 2.0), "b": (9.0, 1.5), "c": (99.0, 0.9)}
    monkeypatch.setattr(
        Stopwatch, "_measured", lambda self, form, dtype: tuple(Timing(1, speed, 1.0) for speed in times[form])
    )
    assert Stopwatch((1, 16)).fastest(["a", "b", "c"], torch.float32) == "b"
    assert Stopwatch((1, 16)).fastest(["c"], torch.float32) is None


def test_a_form_that_was_fast_once_only_is_not_taken(monkeypatch):
    """The winner of several measurements is measured again; the next one stands in for it."""
    times = {"lucky": iter([9.0, 0.9, 9.0, 0.9]), "steady": iter([2.0, 2.0])}
    monkeypatch.setattr(Stopwatch, "_measured", lambda self, form, dtype: (Timing(1, next(times[form]), 1.0),))
    assert Stopwatch((1,)).fastest(["lucky", "steady"], torch.float32) == "steady"
    assert Stopwatch((1,)).fastest(["lucky"], torch.float32) is None


def test_an_order_of_rows_is_timed_by_itself(monkeypatch):
    """Gathering rows takes time: a form that does is not given the times of one that does not."""
    monkeypatch.setattr(Stopwatch, "_measured", lambda self, form, dtype: (Timing(1, 1.0 + len(self._known), 1.0),))
    watch, order = Stopwatch((1,)), torch.randperm(512)
    plain, permuted = HLinear(512, 512, *SIZES), HLinear(512, 512, *SIZES, rows=order)
    assert watch.timings(plain, torch.float32) != watch.timings(permuted, torch.float32)


def test_equal_speed_leaves_a_layer_dense(monkeypatch):
    monkeypatch.setattr(Stopwatch, "_measured", lambda self, form, dtype: (Timing(1, 1.0, 1.0),))
    assert Stopwatch((1,)).fastest([HLinear(512, 512, *SIZES)], torch.float32) is None


def test_a_lean_network_computes_what_its_modules_compute(tmp_path):
    """With hooks, with gradients and compiled: always the same."""
    file, _ = mlp_file(tmp_path)
    module, x, seen = hmcompress.load_model(file), torch.rand(5, 2), []
    plain = module(x)
    module.layers[1].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(module(x), plain, rtol=0, atol=0)
    assert seen == [1]
    plain.sum().backward()
    assert all(p.grad is not None for p in module.parameters())

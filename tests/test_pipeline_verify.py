"""verify finds what is wrong, and names it."""

from dataclasses import replace

import pytest
import torch

import hmcompress
from hmcompress.commands.verifying import check_layers
from hmcompress.container import CompressedFile
from hmcompress.errors import FormatError, SettingsError


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 48, generator=generator)
    return {
        "a.weight": weight,
        "a.bias": torch.randn(64, generator=generator),
        "b.weight": torch.randn(40, 40, generator=generator),
        "tied": weight,
    }


@pytest.fixture
def source(state, tmp_path):
    torch.save(state, tmp_path / "m.pt")
    return tmp_path / "m.pt"


@pytest.fixture
def file(source):
    hmcompress.compress(source, tol=1e-2)
    return source.with_name("m.hmc.safetensors")


def other(state, tmp_path, **changes):
    torch.save(state | changes, tmp_path / "other.pt")
    return tmp_path / "other.pt"


def test_good_file_passes_with_and_without_source(file, source):
    alone, against = hmcompress.verify(file), hmcompress.verify(file, source)
    assert alone.passed and against.passed
    assert (
        [layer.name for layer in alone.layers] == [layer.name for layer in against.layers] == ["a.weight", "b.weight"]
    )
    for stored, measured in zip(alone.layers, against.layers, strict=True):
        assert measured.error <= stored.error <= measured.error * (1 + 2e-4)


def test_stricter_tolerance_names_the_layers(file, source):
    assert hmcompress.verify(file, tol=1e-3).offending == ("a.weight", "b.weight")
    assert hmcompress.verify(file, source, tol=1e-3).offending == ("a.weight", "b.weight")


def test_changed_layer_is_named(file, state, tmp_path):
    weight = state["b.weight"].clone()
    weight[0, 0] += 10
    report = hmcompress.verify(file, other(state, tmp_path, **{"b.weight": weight}))
    assert not report.passed and report.offending == ("b.weight",)


def test_changed_bit_of_an_untouched_tensor_is_named(file, state, tmp_path):
    bias = state["a.bias"].clone()
    bias.view(torch.int32)[5] ^= 1
    assert hmcompress.verify(file, other(state, tmp_path, **{"a.bias": bias})).offending == ("a.bias",)


def test_lost_tie_missing_and_reshaped_tensors_are_named(file, state, tmp_path):
    assert hmcompress.verify(file, other(state, tmp_path, tied=state["tied"].clone())).offending == ("tied",)
    assert hmcompress.verify(file, other(state, tmp_path, extra=torch.ones(2))).offending == ("extra",)
    assert hmcompress.verify(file, other(state, tmp_path, **{"b.weight": torch.ones(1600)})).offending == ("b.weight",)
    fewer = {name: tensor for name, tensor in state.items() if name != "a.bias"}
    assert hmcompress.verify(file, other(fewer, tmp_path)).offending == ("a.bias",)


def test_nan_in_the_source_only_is_a_broken_bound(file, state, tmp_path):
    weight = state["b.weight"].clone()
    weight[0, 0] = float("nan")
    assert hmcompress.verify(file, other(state, tmp_path, **{"b.weight": weight})).offending == ("b.weight",)


def test_damaged_file_is_an_error_and_no_verdict(file):
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(FormatError, match="damaged"):
        hmcompress.verify(file)


def test_a_file_with_thousands_of_tensors_is_compared_in_linear_time(tmp_path):
    """Names are looked up, not searched for: each comparison of two names counts."""

    class Counted(str):
        compared = 0
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            Counted.compared += 1
            return str.__eq__(self, other)

    torch.save({f"b{i}": torch.tensor(float(i)) for i in range(300)}, tmp_path / "m.pt")
    hmcompress.compress(tmp_path / "m.pt")
    compressed = CompressedFile.open(tmp_path / "m.hmc.safetensors")
    info = replace(compressed.index.info, names=tuple(map(Counted, compressed.names)))
    compressed.index = replace(compressed.index, info=info)
    assert list(check_layers(compressed, tmp_path / "m.pt", None)) == []
    assert Counted.compared < 30 * 300


@pytest.mark.parametrize("tol", [0, 1, 5.0, float("nan")])
def test_a_tolerance_that_is_none_is_refused(file, tol):
    with pytest.raises(SettingsError, match="tol must be"):
        hmcompress.verify(file, tol=tol)


def test_a_network_that_is_named_needs_the_source(file):
    with pytest.raises(SettingsError, match="check the file against its original: give --against SOURCE too"):
        hmcompress.verify(file, network="a:b", inputs="x.npy")

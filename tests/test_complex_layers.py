"""Spectral weights of neural operators: complex tensors that a rule names are layers, all others are kept."""

import pytest
import torch

import hmcompress

RULES = [{"match": "spectral.*", "tol": 1e-2}]


@pytest.fixture
def operator(tmp_path):
    """A checkpoint of a Fourier layer: complex weights beside a real one."""
    torch.manual_seed(0)
    tensors = {
        "spectral.weight": torch.randn(8, 8, 12, 12, dtype=torch.complex64),
        "spectral.double": torch.randn(32, 32, dtype=torch.complex128),
        "kept": torch.randn(32, 32, dtype=torch.complex64),
        "lift.weight": torch.randn(64, 32),
    }
    path = tmp_path / "operator.pt"
    torch.save(tensors, path)
    return path, tensors


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_complex_error_is_below_tol_and_not_vacuous(operator, tmp_path):
    path, tensors = operator
    out = tmp_path / "operator.hmc.safetensors"
    report = hmcompress.compress(path, out, tol=1e-3, layers=RULES)
    back = hmcompress.load_state_dict(out)
    assert list(back) == list(tensors)
    assert torch.equal(back["kept"], tensors["kept"])
    for name in ("spectral.weight", "spectral.double"):
        assert back[name].dtype == tensors[name].dtype
        assert 0.9e-2 < relative(back[name], tensors[name]) <= 1e-2
    layer = next(layer for layer in report.layers if layer.name == "spectral.weight")
    assert layer.rate_limit < layer.bits_per_weight < layer.rate_limit + 0.6
    assert hmcompress.verify(out, against=path).passed


def test_without_a_rule_complex_tensors_are_kept_bit_for_bit(operator, tmp_path):
    path, tensors = operator
    out = tmp_path / "operator.hmc.safetensors"
    report = hmcompress.compress(path, out, tol=1e-3)
    back = hmcompress.load_state_dict(out)
    assert torch.equal(back["spectral.weight"], tensors["spectral.weight"])
    assert "spectral.weight and 2 more complex tensors" in report.notes[0] and "rule" in report.notes[0]
    assert hmcompress.read_report(out).notes == report.notes


def test_a_changed_complex_tensor_is_found(operator, tmp_path):
    path, tensors = operator
    out = tmp_path / "operator.hmc.safetensors"
    hmcompress.compress(path, out, tol=1e-3, layers=RULES)
    torch.save(tensors | {"spectral.weight": 1.05 * tensors["spectral.weight"]}, path)
    report = hmcompress.verify(out, against=path)
    assert [layer.name for layer in report.layers if not layer.passed] == ["spectral.weight"]


def test_the_rule_that_the_note_names_bounds_the_complex_tensors_of_all_layers(tmp_path):
    state = {f"blocks.{i}.conv.weight": torch.randn(8, 8, 9, 5, dtype=torch.complex64) for i in range(3)}
    torch.save(state, tmp_path / "m.pt")
    (note,) = (n for n in hmcompress.compress(tmp_path / "m.pt", tmp_path / "a", tol=1e-2).notes if "complex" in n)
    rules = note.split("layers: ")[1].removesuffix(" in --config")
    (tmp_path / "rules.yaml").write_text(f"tol: 1.0e-2\nlayers: {rules}\n")
    report = hmcompress.compress(tmp_path / "m.pt", tmp_path / "b", config=tmp_path / "rules.yaml")
    assert [layer.name for layer in report.layers] == list(state)

"""Every kind of tensor: types, odd shapes, views and ties, and what cannot be carried."""

import pytest
import torch
from checkpoint_files import assert_same, restored, tensors_of
from torch import nn

import hmcompress
from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import SourceError
from hmcompress.geometry import View

FLOATS = ["float64", "float32", "float16", "bfloat16"]
FLOAT8 = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
INTEGERS = ["int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"]
COMPLEX = ["complex128", "complex64", "complex32"]


def raw(dtype, count=6):
    """Arbitrary bit patterns of a type, the same at each call."""
    generator = torch.Generator().manual_seed(1)
    high = 2 if dtype == torch.bool else 256
    return torch.randint(0, high, (count * dtype.itemsize,), generator=generator, dtype=torch.uint8).view(dtype)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", FLOATS + FLOAT8 + INTEGERS + COMPLEX)
def test_every_dtype_comes_back_bit_for_bit(tmp_path, name, zipped):
    tensor = raw(getattr(torch, name))
    saved = {"flat": tensor, "t": tensor.reshape(2, 3).t(), "scalar": tensor[1].clone(), "empty": tensor[:0].clone()}
    path = tmp_path / "model.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    assert_same(restored(path), saved)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_odd_shapes_and_strides_come_back_contiguous(tmp_path, zipped):
    base = torch.arange(24.0)
    saved = {
        "zero_d": torch.tensor(3.5),
        "empty": torch.empty(0, 5),
        "empty_middle": torch.empty(3, 0, 2),
        "permuted": base.clone().reshape(2, 3, 4).permute(2, 0, 1),
        "step": base.clone()[::5],
        "column": base.clone().reshape(4, 6)[:, 2],
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 7),
        "ones": torch.ones(1, 1, 1).expand(1, 1, 1),
        "overlapping": base.clone().as_strided((5, 4), (2, 1)),
        "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
        "negative": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    }
    path = tmp_path / "model.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    for name, entry in checkpoint.entries.items():
        loaded = entry.load()
        assert loaded.is_contiguous(), name
        assert (loaded.shape, loaded.dtype, loaded.nbytes) == (entry.shape, entry.dtype, entry.nbytes)
    assert_same(restored(checkpoint), saved)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint16, torch.float8_e4m3fn])
def test_a_negative_view_of_what_has_no_sign_is_refused(tmp_path, dtype):
    """torch makes none; a file may say so."""
    torch.save({"w": torch.ones(4).to(dtype)._neg_view()}, tmp_path / "model.pt")
    with pytest.raises(SourceError, match="tensor 'w': damaged: a negative view of type"):
        open_checkpoint(tmp_path / "model.pt").entries["w"].load()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tied_weights_are_stored_once(tmp_path, zipped):
    weight = torch.arange(12.0).reshape(3, 4)
    saved = {"decoder": weight, "bias": torch.ones(3), "encoder": weight, "row": weight[1], "turned": weight.t()}
    path = tmp_path / "model.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    assert checkpoint.names == tuple(saved)
    assert list(checkpoint.entries) == ["decoder", "bias"]
    assert checkpoint.ties == {
        "encoder": View("decoder", (3, 4), (4, 1), 0),
        "row": View("decoder", (4,), (1,), 4),
        "turned": View("decoder", (4, 3), (1, 4), 0),
    }
    assert_same(restored(checkpoint), saved)


def test_a_later_tensor_that_covers_earlier_ones_is_their_base(tmp_path):
    whole = torch.arange(20.0)
    saved = {"part": whole[4:10], "columns": whole.reshape(4, 5)[:, :2], "whole": whole, "wide": whole[3].expand(6)}
    path = tmp_path / "model.pt"
    torch.save(saved, path)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.entries) == ["whole"]
    assert checkpoint.ties["part"] == View("whole", (6,), (1,), 4)
    assert checkpoint.ties["wide"] == View("whole", (6,), (0,), 3)
    assert_same(restored(checkpoint), saved)


def test_equal_non_contiguous_views_are_tied(tmp_path):
    turned = torch.arange(6.0).reshape(2, 3).t()
    path = tmp_path / "model.pt"
    torch.save({"a": turned, "b": turned}, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.ties == {"b": View("a", (3, 2), (2, 1), 0)}
    assert_same(restored(checkpoint), {"a": turned, "b": turned})


def test_neighbours_in_one_storage_are_stored_each_once(tmp_path):
    """cuDNN keeps all weights of an LSTM in one storage."""
    flat = torch.arange(30.0)
    saved = {"w_ih": flat[:12].view(4, 3), "w_hh": flat[12:28].view(4, 4), "b": flat[28:]}
    path = tmp_path / "model.pt"
    torch.save(saved, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.ties == {}
    assert checkpoint.left_behind == ()
    assert sum(entry.nbytes for entry in checkpoint.entries.values()) == flat.nbytes
    assert_same(restored(checkpoint), saved)


def test_partial_overlap_is_stored_apart_and_said(tmp_path):
    flat = torch.arange(10.0)
    saved = {"a": flat[:6], "b": flat[4:]}
    path = tmp_path / "model.pt"
    torch.save(saved, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.ties == {}
    assert checkpoint.left_behind == ("b: shares memory with another tensor but is no view of it, stored apart",)
    assert_same(restored(checkpoint), saved)


def test_many_views_of_one_storage_are_sorted_out_quickly(tmp_path):
    flat = torch.arange(4000.0)
    saved = {f"v{i}": flat[i : i + 2] for i in range(0, 3998)} | {"all": flat}
    path = tmp_path / "model.pt"
    torch.save(saved, path)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.entries) == ["all"]
    assert len(checkpoint.ties) == 3998


def test_views_of_another_dtype_are_not_tied(tmp_path):
    base = torch.arange(4.0)
    path = tmp_path / "model.pt"
    saved = {"f": base.clone(), "i": base.clone().view(torch.int32)}
    torch.save(saved, path)
    assert open_checkpoint(path).ties == {}
    assert_same(restored(path), saved)


def test_sparse_tensors_come_back_sparse(tmp_path):
    dense = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 4.0]])
    saved = {"coo": dense.to_sparse(), "csr": dense.to_sparse_csr(), "w": torch.ones(2)}
    path = tmp_path / "model.pt"
    torch.save(saved, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.names == (
        "coo.indices", "coo.values", "csr.crow_indices", "csr.col_indices", "csr.values", "w",
    )  # fmt: skip
    found = restored(checkpoint)
    assert found["coo"].layout == torch.sparse_coo
    assert found["csr"].layout == torch.sparse_csr
    assert torch.equal(found["coo"].to_dense(), dense)
    assert torch.equal(found["csr"].to_dense(), dense)


@pytest.mark.filterwarnings("ignore")
def test_a_module_takes_the_state_dict_of_its_sparse_and_quantized_tensors(tmp_path):
    def made(value: float) -> torch.nn.Module:
        module = torch.nn.Module()
        module.register_buffer("edges", (value * torch.eye(4)).to_sparse())
        module.inner = torch.nn.Linear(20, 20)
        module.inner.register_buffer("rows", (value * torch.eye(3)).to_sparse_csr())
        codes = torch.quantize_per_tensor(torch.full((4,), 0.5 * value), 0.1, 0, torch.qint8)
        module.register_buffer("codes", codes)
        return module

    torch.save({"model": made(2.0).state_dict(), "epoch": 3}, tmp_path / "model.pt")
    hmcompress.compress(tmp_path / "model.pt", tmp_path / "file.hmc.safetensors", tol=1e-2)
    module, saved = made(1.0), made(2.0)
    state = hmcompress.load_state_dict(tmp_path / "file.hmc.safetensors", "model")
    assert list(state) == list(saved.state_dict())
    module.load_state_dict(state)
    for found, expected in ((module.edges, saved.edges), (module.inner.rows, saved.inner.rows)):
        assert found.layout == expected.layout and torch.equal(found.to_dense(), expected.to_dense())
    assert torch.equal(module.codes.dequantize(), saved.codes.dequantize())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32])
def test_quantized_tensors_come_back_quantized(tmp_path, dtype):
    whole = torch.quantize_per_tensor(torch.arange(12.0).reshape(3, 4), 0.1, 3, dtype)
    rows = torch.quantize_per_channel(torch.ones(2, 3), torch.tensor([0.1, 0.2]), torch.zeros(2), 0, torch.qint8)
    torch.save({"q": whole.t(), "rows": rows}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.names == ("q.int_repr", "rows.int_repr", "rows.scales", "rows.zero_points")
    assert not checkpoint.left_behind
    found = restored(checkpoint)
    assert_same(found["q"].int_repr(), whole.int_repr().t())
    assert (found["q"].dtype, found["q"].q_scale(), found["q"].q_zero_point()) == (dtype, 0.1, 3)
    assert_same(found["rows"].int_repr(), rows.int_repr())
    assert found["rows"].q_per_channel_scales().tolist() == rows.q_per_channel_scales().tolist()
    assert found["rows"].q_per_channel_axis() == 0
    assert torch.equal(found["rows"].dequantize(), rows.dequantize())


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_with_zero_points_between_integers_come_back(tmp_path):
    steps, zeros = torch.tensor([0.1, 0.2]), torch.tensor([0.5, 0.25])
    rows = torch.quantize_per_channel(torch.ones(2, 3), steps, zeros, 0, torch.quint8)
    torch.save({"rows": rows}, tmp_path / "model.pt")
    found = restored(tmp_path / "model.pt")["rows"]
    assert found.qscheme() == torch.per_channel_affine_float_qparams
    assert torch.equal(found.dequantize(), rows.dequantize())


@pytest.mark.filterwarnings("ignore")
def test_dynamically_quantized_layers_load_what_comes_back(tmp_path):
    def model():
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 8)), {nn.Linear})

    source, wanted = model(), tmp_path / "model.pt"
    torch.save(source.state_dict(), wanted)
    target, x = model(), torch.ones(2, 4)
    target.load_state_dict(restored(open_checkpoint(wanted)))
    assert torch.equal(target(x), source(x))


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_carried_is_said(tmp_path):
    saved = {
        "meta": torch.empty(2, device="meta"),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "w": torch.ones(2),
    }
    path = tmp_path / "model.pt"
    torch.save(saved, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.names == ("w",)
    text = "\n".join(checkpoint.left_behind)
    assert "meta: a tensor on the meta device" in text
    assert "nested: a nested tensor" in text


def test_lstm_and_tied_embedding_modules_round_trip(tmp_path):
    module = nn.ModuleDict({"a": nn.Embedding(5, 4), "b": nn.Linear(4, 5, bias=False), "r": nn.LSTM(4, 4)})
    module["b"].weight = module["a"].weight
    path = tmp_path / "model.pt"
    torch.save(module.state_dict(), path)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.ties) == ["b.weight"]
    assert_same(tensors_of(checkpoint), dict(module.state_dict()))

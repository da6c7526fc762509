"""What goes into a compressed file comes out of it."""

import pytest
import safetensors
import torch
from container_files import encode, mixed, pinn, read, write

from hmcompress.container import CompressedFile, EncodedLayer, FileInfo, FileWriter, LayerRow, pack_tensor
from hmcompress.container.header import DIGEST_AT, DIGEST_END
from hmcompress.container.index import round_up
from hmcompress.geometry import View
from hmcompress.hmatrix import compress_matrix
from hmcompress.layers import is_dense

KEPT = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64, torch.complex32,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.uint16, torch.uint32, torch.uint64, torch.bool,
]  # fmt: skip


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


@pytest.mark.parametrize("dtype", KEPT, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (3, 4), (2, 3, 4, 1, 2), (700,)], ids=str)
def test_untouched_tensor_comes_back_bit_for_bit(tmp_path, dtype, shape):
    raw = torch.randint(0, 2, (*shape, dtype.itemsize), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    tensor = raw.view(dtype).reshape(shape) if raw.numel() else torch.empty(shape, dtype=dtype)
    write(tmp_path / "f", {"a.b": tensor})
    assert same(read(tmp_path / "f")["a.b"], tensor)


@pytest.mark.parametrize("dtype", KEPT, ids=str)
def test_untouched_table_comes_back_by_columns(tmp_path, dtype):
    random = torch.randint(0, 2, (512, 12, dtype.itemsize), generator=torch.Generator().manual_seed(2))
    raw = random if dtype == torch.bool else 2 * torch.arange(12)[:, None] + random
    tensor = raw.to(torch.uint8).view(dtype).reshape(512, 4, 3)
    assert pack_tensor("w", tensor).body[0] & 8 or dtype != torch.int8
    write(tmp_path / "f", {"w": tensor})
    assert same(read(tmp_path / "f")["w"], tensor)


def test_nan_payloads_and_signed_zeros_survive(tmp_path):
    tensor = torch.tensor([0x7FC00001, 0xFFC00000, 0x80000000, 0x7F800000] * 100).to(torch.uint32).view(torch.float32)
    write(tmp_path / "f", {"t": tensor})
    assert same(read(tmp_path / "f")["t"], tensor)


def test_every_sort_of_tensor_comes_back_in_order(tmp_path):
    tensors = mixed()
    write(tmp_path / "f", tensors)
    back = read(tmp_path / "f")
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape and back[name].dtype == tensor.dtype
        if is_dense(tensor.shape, tensor.dtype):
            assert (back[name] - tensor).double().norm() <= 1.001e-2 * tensor.double().norm()
        else:
            assert same(back[name], tensor)


def test_file_is_a_valid_safetensors_file(tmp_path):
    write(tmp_path / "f", mixed())
    with safetensors.safe_open(tmp_path / "f", "pt") as file:
        assert file.metadata()["format"] == "hmcompress" and file.metadata()["version"] == "1"
        assert torch.equal(file.get_tensor("encoder.bias"), mixed()["encoder.bias"])
        assert "hmcompress" in file.keys()  # noqa: SIM118
        assert "encoder.weight" not in file.keys()  # noqa: SIM118


def test_raw_tensors_are_aligned(tmp_path):
    write(tmp_path / "f", {"b": torch.zeros(1, dtype=torch.uint8)} | mixed() | {"d": torch.randn(3).double()})
    file = CompressedFile.open(tmp_path / "f")
    assert all(entry.begin % entry.dtype.itemsize == 0 for entry in file.header.values())


@pytest.mark.parametrize("name", ["", "__metadata__", "hmcompress", "ü.\U0001f600", "\ud800", "a b\n"])
@pytest.mark.parametrize("layer", [False, True], ids=["untouched", "layer"])
def test_any_name_is_possible(tmp_path, name, layer):
    tensors = {"tensor.0": torch.ones(2), name: torch.randn(20, 20) if layer else torch.tensor([1.0, 2.0])}
    write(tmp_path / "f", tensors)
    back = read(tmp_path / "f")
    assert list(back) == list(tensors) and back[name].shape == tensors[name].shape
    with safetensors.safe_open(tmp_path / "f", "pt") as file:
        assert len(file.keys()) >= 2


def test_ties_share_memory_again(tmp_path):
    tensors = {"embed": torch.randn(20, 16), "flat": torch.arange(12.0)}
    views = {
        "head": View.whole("embed", (20, 16)),
        "transposed": View("embed", (16, 20), (1, 16), 0),
        "row": View("flat", (3,), (2,), 5),
        "repeated": View("flat", (4, 2), (0, 1), 10),
        "nothing": View("flat", (0,), (1,), 12),
    }
    write(tmp_path / "f", tensors, views)
    back = read(tmp_path / "f")
    assert back["head"].data_ptr() == back["embed"].data_ptr()
    assert torch.equal(back["transposed"], back["embed"].T)
    assert back["row"].tolist() == [5.0, 7.0, 9.0]
    assert back["repeated"].tolist() == [[10.0, 11.0]] * 4
    assert back["nothing"].shape == (0,)
    assert CompressedFile.open(tmp_path / "f").index.info.views == views


def test_weight_and_bias_may_be_one_layer(tmp_path):
    weight, bias = torch.randn(32, 20), torch.randn(32)
    matrix = compress_matrix(torch.cat([weight, bias[:, None]], 1), 1e-3)
    row = LayerRow(
        ("l.weight", "l.bias"), None, "fro", matrix.error, matrix.max_abs_error, matrix.method, matrix.leaves
    )
    with FileWriter(tmp_path / "f") as writer:
        writer.add(EncodedLayer(row, matrix.payload, ((32, 20), (32,)), torch.float32))
        writer.add(pack_tensor("after", torch.ones(3)))
        writer.finish(FileInfo(("l.weight", "l.bias", "after")))
    back = read(tmp_path / "f")
    assert torch.equal(torch.cat([back["l.weight"], back["l.bias"][:, None]], 1), matrix.to_dense())
    assert CompressedFile.open(tmp_path / "f").layers[0].tol is None


def test_layers_may_come_in_any_order(tmp_path):
    tensors = {"a": torch.randn(20, 20), "b": torch.ones(2), "c": torch.randn(30, 20)}
    with FileWriter(tmp_path / "f") as writer:
        writer.add(encode("c", tensors["c"]))
        writer.add(pack_tensor("b", tensors["b"]))
        writer.add(encode("a", tensors["a"]))
        writer.finish(FileInfo(("a", "b", "c")))
    back = read(tmp_path / "f")
    assert list(back) == ["a", "b", "c"] and back["c"].shape == (30, 20)
    assert (back["a"] - tensors["a"]).norm() <= 1.001e-2 * tensors["a"].norm()


def test_information_comes_back(tmp_path):
    info = {
        "source": {"name": "m.pt", "digest": "sha256:00", "bytes": 7},
        "settings": {"tol": 1e-2},
        "nest": {"epoch": 3, "w": {"$": "tensor"}, "lr": float("inf")},
        "left_behind": ("a: why",),
        "notes": ("b: what",),
        "network": {"tol": 0.1},
    }
    write(tmp_path / "f", {"w": torch.ones(2)}, **info)
    got = CompressedFile.open(tmp_path / "f").index.info
    assert {key: getattr(got, key) for key in info} == info


@pytest.mark.parametrize("names", [["encoder.weight", "stack", "conv"], ["net.0", "net.1"]], ids=["layers", "others"])
def test_rows_of_the_network_come_back(tmp_path, names):
    rows = [{"name": name, "growth": 1.5, "dead_rows": i} for i, name in enumerate(names)]
    write(tmp_path / "f", mixed(), network={"tol": 0.1, "layers": rows})
    assert CompressedFile.open(tmp_path / "f").index.info.network == {"tol": 0.1, "layers": rows}


def test_no_tensors_at_all(tmp_path):
    write(tmp_path / "f", {})
    assert read(tmp_path / "f") == {}


def test_same_input_gives_the_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name, mixed(), settings={"tol": 1e-2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dry_run_counts_the_bytes_of_the_real_file(tmp_path):
    counted = write(None, mixed())
    assert counted == write(tmp_path / "f", mixed()) == (tmp_path / "f").stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_overhead_is_below_1_kb_and_120_bytes_a_layer(tmp_path):
    """Header, untouched tensors' entries, index, settings, digests: everything beside the streams."""
    tensors = pinn()
    settings = {
        "tol": 1e-4, "metric": "outputs", "network": {"mlp": {"activation": "tanh"}}, "ntk": False,
        "calibration": {"domain": {"x": [-1.0, 1.0], "t": [0.0, 1.0]}, "samples": 4096, "seed": 7},
    }  # fmt: skip
    source = {"name": "burgers.pt", "kind": "torch zip", "bytes": 202_345, "digest": "sha256:" + "0f1e2d3c4b5a6978" * 4}
    size = write(tmp_path / "f", tensors, settings=settings, source=source)
    file = CompressedFile.open(tmp_path / "f")
    streams = sum(row.nbytes for row in file.layers) + sum(file.stored_bytes(name) for name in file.index.entries)
    assert size - streams <= 1000 + 120 * 5


def test_digest_lies_where_the_format_says(tmp_path):
    write(tmp_path / "f", pinn())
    data = (tmp_path / "f").read_bytes()
    assert data[DIGEST_AT - 10 : DIGEST_AT] == b'"digest":"' and data[DIGEST_END : DIGEST_END + 2] == b'"}'


@pytest.mark.parametrize("x", [9.87654321e-5, 0.0, 1.0, 9.99999e-3, 1e-300, 123456.7, 1.00001e-2])
def test_stored_errors_are_upper_values_of_five_digits(x):
    short = round_up(x)
    assert x <= short <= x * (1 + 1.1e-4) and len(f"{short:.12g}".split("e")[0].strip("0.").replace(".", "")) <= 6


def test_rounding_up_never_breaks_a_bound_that_holds():
    assert round_up(1.234561e-3, bound=1.234562e-3) == 1.234561e-3

"""TorchScript modules whose buffers and attributes are more than plain float tensors."""

import pytest
import torch
from checkpoint_files import restored
from torch import nn

from hmcompress.checkpoint import open_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*(beta state|deprecated)")  # torch means to give some of them up


class Unusual(nn.Module):
    """Buffers of kinds that TorchScript writes its own way, and tensors that are no buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.eye(20)[:5].to_sparse())
        self.register_buffer("compressed", torch.eye(20).to_sparse_csr())
        self.register_buffer("codes", torch.quantize_per_tensor(torch.linspace(-1, 1, 9), 0.1, 0, torch.qint8))
        self.register_buffer("short", torch.arange(6).to(torch.uint16))
        self.register_buffer("eighth", torch.arange(6.0).to(torch.float8_e4m3fn))
        self.table = {"x": torch.ones(3)}
        self.listed = [torch.ones(2)]
        self.pair = (torch.ones(1), 1)
        self.numbers = [1, 2]

    def forward(self, x):
        return x


def test_buffers_of_every_kind_come_back(tmp_path):
    path = tmp_path / "unusual.pt"
    torch.jit.script(Unusual()).save(str(path))
    found, wanted = restored(path), Unusual()
    for name in ("rows", "compressed", "codes", "short", "eighth"):
        buffer = wanted.get_buffer(name)
        assert (found[name].dtype, found[name].layout) == (buffer.dtype, buffer.layout)
        assert torch.equal(plain(found[name]), plain(buffer))


def test_tensors_in_containers_are_told(tmp_path):
    path = tmp_path / "unusual.pt"
    torch.jit.script(Unusual()).save(str(path))
    told = [line for line in open_checkpoint(path).left_behind if "tensors in a container" in line]
    assert [sorted(line.partition(":")[0].split(", ")) for line in told] == [["listed", "pair", "table"]]


def plain(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_quantized:
        return tensor.dequantize()
    return (tensor.to_dense() if tensor.layout != torch.strided else tensor).float()

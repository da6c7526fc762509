"""Claims about load_model and modules of other people: where another form cannot stand in, the layer stays as it is."""

import copy

import pytest
import torch
from nn_cases import low_rank, relative
from torch import Tensor, nn

import hmcompress
from hmcompress.nn import HLinear, LowRankLinear
from hmcompress.nn.choose import Stopwatch, Timing

N = 256


class OddNames(nn.Module):
    """Parameters whose names end like a layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.myweight, self.weight = nn.Parameter(torch.zeros(N, N)), nn.Parameter(torch.zeros(N, N))
        self.layer = nn.Linear(N, N)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x @ self.weight) @ self.myweight


class Tied(nn.Module):
    """A language model's: the embedding is the last layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(N, N), nn.Linear(N, N), nn.Linear(N, N, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(self.embed(x.abs().long() % N)[..., 0, :])))


class ReadsTheWeight(nn.Module):
    """Computes with the layer's weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(N, N)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight, self.layer.bias) @ self.layer.weight


def masked() -> nn.Module:
    """A layer that carries a buffer of somebody's."""
    layer = nn.Linear(N, N)
    layer.register_buffer("mask", torch.ones(3))
    return nn.Sequential(layer)


def patched() -> nn.Module:
    """A layer whose forward somebody replaced."""
    layer = nn.Linear(N, N)
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight, layer.bias)  # type: ignore[method-assign]
    return nn.Sequential(layer)


CASES = {
    "odd names": (OddNames, ["layer"]),
    "tied": (Tied, ["layer"]),
    "weight read": (ReadsTheWeight, ["layer"]),
    "encoder": (lambda: nn.TransformerEncoderLayer(N, 4, N, batch_first=True), []),
    "recurrent": (lambda: nn.LSTM(N, N, 2, batch_first=True), []),
    "script": (lambda: torch.jit.script(nn.Sequential(nn.Linear(N, N), nn.ReLU())), []),
    "masked": (masked, []),
    "patched": (patched, []),
    "wrapped": (lambda: nn.DataParallel(nn.Sequential(nn.Linear(N, N))), ["module.0"]),
    "normed": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(N, N)), []),
}


def first(y: Tensor | tuple) -> Tensor:
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*nested tensor")
@pytest.mark.parametrize("case", CASES)
def test_a_module_of_another_kind_computes_what_it_did(case, tmp_path, monkeypatch):
    """Under every mode of autograd, copied, and with its own state dict; the layers named run in another form."""
    monkeypatch.setattr(Stopwatch, "_measured", lambda self, *_: tuple(Timing(b, 2.0, 1.0) for b in self.batches))
    torch.manual_seed(0)
    make, replaced = CASES[case]
    module = make().eval()
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() == 2 and p.shape[1] == N:
                p.copy_(low_rank(*p.shape))
    torch.save(module.state_dict(), tmp_path / "m.pt")
    hmcompress.compress(tmp_path / "m.pt", tmp_path / "m.hmc.safetensors", tol=1e-4)
    loaded = hmcompress.load_model(tmp_path / "m.hmc.safetensors", make().eval())
    forms = [name for name, part in loaded.named_modules() if isinstance(part, HLinear | LowRankLinear)]
    assert forms == replaced
    x = torch.randn(3, 5, N)
    modes = [torch.enable_grad, torch.no_grad, *([] if case == "script" else [torch.inference_mode])]
    for mode in modes:  # scripts keep plans made under one mode, which fail in inference mode
        with mode():
            assert relative(first(loaded(x)), first(module(x))) < 1e-2
    if case not in ("script", "patched"):
        twin = copy.deepcopy(loaded)
        twin.load_state_dict(loaded.state_dict())
        assert torch.equal(first(twin(x)), first(loaded(x)))


def test_a_form_without_memory_is_filled_from_a_state_dict():
    rows = torch.randperm(N)
    h = HLinear(N, N, (N // 4, N // 4), ((4, 3, 2),), rows=rows, dtype=torch.float64)
    for p in h.parameters():
        nn.init.normal_(p)
    empty = copy.deepcopy(h).to("meta").to_empty(device="cpu")
    empty.load_state_dict(h.state_dict())
    x = torch.randn(100, N, dtype=torch.float64)
    assert torch.equal(empty(x), h(x))


class Shelved(nn.Module):
    """A layer in a plain list, which torch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.models = nn.Linear(16, 1), [nn.Linear(16, 16)]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.models[0](x))


def test_layers_in_plain_containers_are_filled(tmp_path):
    module, made, x = Shelved(), Shelved(), torch.rand(3, 16)
    torch.save(module, tmp_path / "model.pt")
    hmcompress.compress(tmp_path / "model.pt", tmp_path / "model.hmc.safetensors", tol=1e-3)
    assert relative(hmcompress.load_model(tmp_path / "model.hmc.safetensors", made)(x), module(x)) < 1e-2

"""Claims about HLinear: it is the matrix it stands for, trains, travels, and fits where nn.Linear does."""

import copy
import io
import shutil

import pytest
import torch
from nn_cases import kernel, layer, relative
from torch import nn
from torch._inductor import config as inductor

from hmcompress.nn import HLinear, LowRankLinear, resident_bytes

SIZES = ((64, 64), ((8, 3, 2), (2, 4, 5)))  # of leaves, and of levels
SHAPES = [(512, 512), (300, 700), (1000, 130), (203, 131)]


def smooth(m: int, n: int) -> torch.Tensor:
    x, y = torch.linspace(0, 1, m, dtype=torch.float64)[:, None], torch.linspace(0, 1, n, dtype=torch.float64)
    return (1 / ((x - y).abs() + 0.02)).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_product_is_that_of_the_dense_weight(shape):
    w = smooth(*shape)
    h, x = layer(w), torch.randn(7, shape[1])
    assert relative(h(x), x @ w.T) < 1e-4
    assert relative(h.weight, w) < 2e-5


@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3), (300,), (0,)])
def test_any_leading_shape_works_as_in_nn_linear(batch):
    w, bias = kernel(), torch.randn(512)
    h, x = layer(w, bias=bias), torch.randn(*batch, 512)
    y = h(x)
    assert y.shape == (*batch, 512)
    torch.testing.assert_close(y, nn.functional.linear(x, h.weight, bias), rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_agree_with_dense_autograd(shape):
    """To 1e-4 relative: of the input, of the bias, and of every factor, through the expanded weight."""
    h = layer(smooth(*shape), bias=torch.randn(shape[0])).double()
    twin = copy.deepcopy(h)
    x = torch.randn(9, shape[1], dtype=torch.float64, requires_grad=True)
    z = x.detach().clone().requires_grad_()
    g = torch.randn(9, shape[0], dtype=torch.float64)
    h(x).backward(g)
    nn.functional.linear(z, twin.to_dense(), twin.bias).backward(g)
    assert relative(x.grad, z.grad) < 1e-4
    for (name, p), q in zip(h.named_parameters(), twin.parameters(), strict=True):
        assert relative(p.grad, q.grad) < 1e-4, name


def test_padding_never_gets_a_gradient_that_matters():
    """Numbers beyond the matrix's edge change no output, so training cannot use them."""
    h, x = layer(smooth(300, 700)), torch.randn(3, 700)
    before = h(x)
    edge = h.levels[0].groups * h.leaf[1] - 700
    assert edge > 0
    with torch.no_grad():
        h.right_0[-1, -edge:] += 1
        h.near_0[-1, -edge:] += 1
    torch.testing.assert_close(h(x), before)


@pytest.mark.parametrize("levels", [((8, 2, 2), (3, 2, 2)), ()])
def test_levels_that_do_not_nest_are_refused(levels):
    with pytest.raises(ValueError, match="do not nest"):
        HLinear(64, 64, (8, 8), levels)


def test_leaves_that_do_not_cover_the_matrix_are_refused():
    with pytest.raises(ValueError, match="do not cover"):
        HLinear(64, 65, (8, 8), ((8, 2, 2),))


def test_bfloat16_is_as_close_as_a_dense_bfloat16_layer():
    w, x = kernel(), torch.randn(16, 512)
    exact = x @ w.T
    ours = relative(layer(w).bfloat16()(x.bfloat16()).float(), exact)
    dense = relative((x.bfloat16() @ w.bfloat16().T).float(), exact)
    assert ours < 3 * dense


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same():
    h, x = layer(kernel()), torch.randn(16, 512)
    assert relative(copy.deepcopy(h).cuda()(x.cuda()).cpu(), h(x)) < 1e-5


def test_state_dict_round_trip():
    h = layer(kernel(), bias=torch.randn(512))
    buffer = io.BytesIO()
    torch.save(h.state_dict(), buffer)
    buffer.seek(0)
    other = HLinear(512, 512, h.leaf, h.levels)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(4, 512)
    assert torch.equal(h(x), other(x))


def test_permutations_travel_in_the_state_dict():
    rows, columns = torch.randperm(512), torch.randperm(512)
    h = HLinear(512, 512, *SIZES, rows=rows, columns=columns)
    for p in h.parameters():
        nn.init.normal_(p)
    other = HLinear(512, 512, *SIZES, rows=torch.arange(512), columns=torch.arange(512))
    other.load_state_dict(h.state_dict())
    assert torch.equal(h.weight, other.weight)


@pytest.mark.parametrize("chunked", [False, True])
def test_torch_compile_captures_one_graph(chunked):
    h = layer(kernel(), bias=torch.randn(512))
    x = torch.randn(1000 if chunked else 4, 512)
    compiled = torch.compile(h, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), h(x), rtol=1e-4, atol=1e-2)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="inductor needs a C++ compiler")
def test_torch_compile_with_its_own_compiler_gives_the_same():
    """Inductor, in this process: others take longer to start, as does finding out what the processor knows."""
    h, x = layer(kernel(), bias=torch.randn(512)), torch.randn(4, 512)
    with inductor.patch({"compile_threads": 1, "cpp.vec_isa_ok": False}), torch.no_grad():
        assert relative(torch.compile(h, fullgraph=True)(x), h(x)) < 1e-5


def test_gradients_of_the_compiled_layer_are_the_same():
    h, x = layer(kernel(), bias=torch.randn(512)), torch.randn(4, 512)
    twin = copy.deepcopy(h)
    torch.compile(h, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    twin(x).square().sum().backward()
    for p, q in zip(h.parameters(), twin.parameters(), strict=True):
        assert relative(p.grad, q.grad) < 1e-4


def test_a_large_batch_is_cut_without_a_difference():
    h, x = layer(kernel()), torch.randn(1000, 512)
    torch.testing.assert_close(h(x), torch.cat([h(x[:10]), h(x[10:])]), rtol=1e-4, atol=1e-2)


def test_it_stands_where_a_linear_layer_stood():
    """Shapes, hooks, Sequential, eval and train, deepcopy, parameters()."""
    h, seen = layer(kernel(), bias=torch.zeros(512)), []
    h.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    model = nn.Sequential(nn.Linear(8, 512), h, nn.ReLU(), nn.Linear(512, 2))
    assert (h.in_features, h.out_features) == (512, 512)
    assert (h.bias.shape, h.weight.shape) == ((512,), (512, 512))
    y = copy.deepcopy(model).eval()(torch.randn(3, 8))
    assert tuple(y.shape) == (3, 2) and seen == [(3, 512)]
    assert {name for name, _ in h.named_parameters()} == {"bias", *factors(h)}


def factors(h: HLinear) -> set[str]:
    """Names of all parameters but the bias."""
    return {"top", *(f"{kind}_{k}" for kind in ("near", "left", "right") for k in range(len(h.levels)))}


class Wrapped(nn.Module):
    """A module that hands everything on to another, as DataParallel and its kin do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("wrapper", [Wrapped, nn.DataParallel])
def test_wrappers_take_it_and_prefix_its_names(wrapper):
    """DataParallel, without devices, hands on too; a state dict from under a wrapper fits one without."""
    h, x = layer(kernel(), bias=torch.randn(512)), torch.randn(4, 512)
    wrapped = wrapper(h)
    torch.testing.assert_close(wrapped(x).cpu(), h(x).cpu())
    state = wrapped.state_dict()
    assert set(state) == {"module.bias", *(f"module.{name}" for name in factors(h))}
    other = HLinear(512, 512, h.leaf, h.levels)
    other.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    assert torch.equal(other.weight.cpu(), h.weight.cpu())


def test_hooks_see_its_inputs_outputs_and_gradients():
    h, seen = layer(kernel()), []
    h.register_forward_pre_hook(lambda module, args: seen.append(("in", tuple(args[0].shape))))
    h.register_forward_hook(lambda module, args, out: seen.append(("out", tuple(out.shape))))
    h.register_full_backward_hook(lambda module, into, out: seen.append(("back", tuple(into[0].shape))))
    x = torch.randn(3, 512, requires_grad=True)
    h(x).sum().backward()
    assert seen == [("in", (3, 512)), ("out", (3, 512)), ("back", (3, 512))]


def test_everything_follows_to_another_device():
    """Factors, bias and permutations; the product makes no tensor elsewhere. The meta device stands for any other."""
    h = HLinear(512, 300, (38, 64), ((8, 4, 3), (2, 2, 5)), rows=torch.randperm(300), columns=torch.randperm(512)).to(
        "meta"
    )
    assert {t.device.type for t in (*h.parameters(), *h.buffers())} == {"meta"}
    assert h(torch.randn(4, 512, device="meta")).device.type == "meta"
    assert h.weight.device.type == "meta"
    pair = LowRankLinear(30, 20, 4).to("meta")
    assert pair(torch.randn(4, 30, device="meta")).device.type == "meta"


def test_bfloat16_trains_and_travels():
    h = layer(kernel(), bias=torch.randn(512)).bfloat16()
    h(torch.randn(4, 512, dtype=torch.bfloat16)).float().square().mean().backward()
    assert {p.grad.dtype for p in h.parameters()} == {torch.bfloat16}
    other = HLinear(512, 512, h.leaf, h.levels, dtype=torch.bfloat16)
    other.load_state_dict(h.state_dict())
    assert torch.equal(other.top, h.top) and other.bias.dtype == torch.bfloat16


def test_training_moves_factors_and_leaves_and_lowers_the_loss():
    torch.manual_seed(0)
    target, h = kernel(256) * 1.05, layer(kernel(256), 1e-3)
    x = torch.randn(64, 256)
    optimiser = torch.optim.Adam(h.parameters(), lr=3e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (h(x) - x @ target.T).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_memory_is_a_small_part_of_dense():
    dense = nn.Linear(1024, 1024, bias=False)
    assert resident_bytes(layer(kernel(1024))) < resident_bytes(dense) / 6


def test_a_pair_of_factors_is_a_linear_layer_too():
    pair = LowRankLinear(30, 20, 4)
    for p in pair.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 5, 30)
    torch.testing.assert_close(pair(x), nn.functional.linear(x, pair.weight, pair.bias))

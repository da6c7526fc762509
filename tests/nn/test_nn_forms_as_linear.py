"""Claims about every form of a layer: whatever torch does to an nn.Linear it does to each of them."""

import copy
import io
import pickle

import pytest
import torch
from nn_cases import relative
from torch import nn

from hmcompress.nn import HLinear, LowRankLinear

N, M = 75, 50  # no multiples of the leaves' number


def made(kind: str) -> nn.Module:
    """A form with random factors, double precision."""
    torch.manual_seed(0)
    rows = torch.randperm(M) if kind.endswith(("permuted", "of rows")) else None
    columns = torch.randperm(N) if kind.endswith("permuted") else None
    options = {"rows": rows, "columns": columns, "dtype": torch.float64}
    if kind.startswith("pair"):
        module: nn.Module = LowRankLinear(N, M, 4, dtype=torch.float64)
    else:
        module = HLinear(N, M, (13, 19), ((4, 5, 3), (2, 4, 6)), **options)
    for p in module.parameters():
        nn.init.normal_(p)
    return module


@pytest.fixture(params=["hierarchy", "hierarchy permuted", "hierarchy of rows", "hierarchy by parts", "pair"])
def form(request, monkeypatch):
    if request.param.endswith("parts"):
        monkeypatch.setattr("hmcompress.nn.linear._CACHED", 2 * N)  # two samples at once
    return made(request.param)


def dense(form: nn.Module) -> nn.Linear:
    linear = nn.Linear(N, M, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(form.weight), linear.bias.copy_(form.bias)
    return linear


@pytest.mark.parametrize("shape", [(N,), (1, N), (0, N), (3, N), (100, N), (2, 3, N), (2, 0, N), (2000, N)])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_values_are_those_of_the_dense_layer(form, shape, mode):
    x, linear = torch.randn(shape, dtype=torch.float64), dense(form)
    with mode():
        y = form(x)
    assert y.shape == (*shape[:-1], M)
    torch.testing.assert_close(y, linear(x), rtol=1e-9, atol=1e-9)
    with mode():
        torch.testing.assert_close(form(x), y)  # and nothing was overwritten


def test_its_argument_has_the_name_of_a_dense_layers(form):
    x = torch.randn(3, N, dtype=torch.float64)
    torch.testing.assert_close(form(input=x), dense(form)(input=x))


def test_inputs_without_contiguous_memory(form):
    x = torch.randn(N, 6, dtype=torch.float64).T
    torch.testing.assert_close(form(x), dense(form)(x))
    torch.testing.assert_close(form(x[::2]), dense(form)(x[::2]))
    torch.testing.assert_close(form(x[:1].expand(4, -1)), dense(form)(x[:1].expand(4, -1)))


def test_first_and_second_derivatives_pass_the_numerical_check(form):
    x = torch.randn(2, N, dtype=torch.float64, requires_grad=True)
    square = lambda x: form(x).square().sum()  # noqa: E731
    assert torch.autograd.gradcheck(form, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(square, x, fast_mode=True)


def test_double_backward_reaches_the_factors(form):
    """A PINN's loss: the derivative by the input, then the gradient of that by the parameters."""
    x = torch.randn(3, N, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.tanh(form(x)).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in form.parameters())


def test_torch_func_sees_through_it(form):
    linear, x, v = dense(form), torch.randn(4, N, dtype=torch.float64), torch.randn(4, N, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(form)(x), linear(x))
    torch.testing.assert_close(torch.func.jvp(form, (x,), (v,))[1], torch.func.jvp(linear, (x,), (v,))[1])
    torch.testing.assert_close(torch.vmap(torch.func.jacrev(form))(x), torch.vmap(torch.func.jacrev(linear))(x))
    torch.testing.assert_close(torch.vmap(torch.func.jacfwd(form))(x), torch.vmap(torch.func.jacrev(linear))(x))
    lent = {name: 2 * p.detach() for name, p in form.named_parameters()}
    called = torch.func.functional_call(form, lent, (x,))
    assert not torch.allclose(called, form(x))
    torch.testing.assert_close(form(x), linear(x))


@torch.no_grad()
def test_ensembles_of_any_one_parameter(form):
    """vmap over some of the parameters only, where no sum can be formed in place."""
    x = torch.randn(4, N, dtype=torch.float64)
    for name, p in form.named_parameters():
        several = torch.stack([p, 2 * p, 3 * p])
        y = torch.vmap(lambda q, name=name: torch.func.functional_call(form, {name: q}, (x,)))(several)
        torch.testing.assert_close(y[0], form(x))


def test_per_sample_gradients_add_up(form):
    x, own = torch.randn(4, N, dtype=torch.float64), dict(form.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(form, parameters, (x,)).square().sum()

    each = torch.vmap(torch.func.grad(loss), (None, 0))({k: p.detach() for k, p in own.items()}, x)
    form(x).square().sum().backward()
    for name, p in own.items():
        torch.testing.assert_close(each[name].sum(0), p.grad)


def test_copies_compute_the_same(form):
    x = torch.randn(3, N, dtype=torch.float64)
    saved = io.BytesIO()
    torch.save(form, saved)
    saved.seek(0)
    copies = [copy.deepcopy(form), pickle.loads(pickle.dumps(form)), torch.load(saved, weights_only=False)]
    for twin in copies:
        assert torch.equal(twin(x), form(x)) and torch.equal(twin.weight, form.weight)
        assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in form.parameters())


def test_a_strict_state_dict_fits_a_twin_and_a_meta_module(form):
    x = torch.randn(3, N, dtype=torch.float64)
    twin = copy.deepcopy(form)
    for p in twin.parameters():
        nn.init.zeros_(p)
    twin.load_state_dict(form.state_dict())
    assert torch.equal(twin(x), form(x))
    empty = copy.deepcopy(form).to("meta")
    assert empty(x.to("meta")).shape == (3, M) and all(p.is_meta for p in empty.parameters())


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 3e-3)])
def test_other_dtypes(form, dtype, close):
    x = torch.randn(20, N, dtype=torch.float64)
    expected = form(x)
    cast = copy.deepcopy(form).to(dtype)
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            y = cast(x.to(dtype))
        assert y.dtype == dtype and relative(y, expected) < close


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_autocast_computes_in_bfloat16(form, mode):
    form, x = form.float(), torch.randn(20, N)
    with mode(), torch.autocast("cpu", torch.bfloat16):
        y = form(x)
    assert relative(y, form(x)) < 3e-2
    if mode is torch.enable_grad:
        y.float().square().sum().backward()
        assert {p.grad.dtype for p in form.parameters()} == {torch.float32}


def test_it_compiles_as_one_graph_of_any_batch_size(form):
    torch.compiler.reset()  # what other tests compiled counts against the limit of variants
    compiled = torch.compile(form, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (1, 3, 40):
        x = torch.randn(batch, N, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), form(x))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), form(x))


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="torch does not see that 3 n is less than 6 n"
)
def test_it_is_exported_with_a_dynamic_batch(form):
    x = torch.randn(8, N, dtype=torch.float64)
    program = torch.export.export(form, (x,), dynamic_shapes=({0: torch.export.Dim("samples")},))
    for batch in (1, 2000):
        x = torch.randn(batch, N, dtype=torch.float64)
        torch.testing.assert_close(program.module()(x), form(x))


def test_parametrised_and_pruned_factors_are_used(form):
    from torch.nn.utils import parametrize, prune

    class Doubled(nn.Module):
        def forward(self, p):
            return 2 * p

    x = torch.randn(3, N, dtype=torch.float64)
    for name in [name for name, _ in form.named_parameters() if name != "bias"]:
        halved, cut = copy.deepcopy(form), copy.deepcopy(form)
        with torch.no_grad():
            getattr(halved, name).mul_(0.5)
        parametrize.register_parametrization(halved, name, Doubled())
        torch.testing.assert_close(halved(x), form(x))
        prune.l1_unstructured(cut, name, amount=0.9)
        with torch.no_grad():
            assert not torch.allclose(cut(x), form(x))


def test_training_and_hooks_are_those_of_any_module(form):
    seen = []
    form.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    form.register_full_backward_hook(lambda module, into, out: seen.append(into[0].shape))
    x = torch.randn(3, N, dtype=torch.float64, requires_grad=True)
    linear, z = dense(form), x.detach().clone().requires_grad_()
    form(x).square().sum().backward()
    linear(z).square().sum().backward()
    assert seen == [(3, M), (3, N)]
    assert relative(x.grad, z.grad) < 1e-9 and relative(form.bias.grad, linear.bias.grad) < 1e-9


@pytest.mark.parametrize("wrong", [N - 1, N + 1, 2 * N])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_inputs_of_another_width_are_refused(form, wrong, dims):
    """nn.Linear refuses them; a reshape or a gather would take some for others."""
    with pytest.raises(RuntimeError):
        form(torch.randn(*(4,) * (dims - 1), wrong, dtype=torch.float64))

"""Fine-tune the Burgers sample from its compressed file: load, go on with its own training, write it back, compare.

    python sample_models/finetune_burgers.py             # 100 steps: about three minutes on one core
    python sample_models/finetune_burgers.py --curves    # gradient descent with the tangent kernel kept, and without

The network is loaded as it runs, without its dead neurons, and sees its equation and conditions again, by Gauss-Newton
steps, which is what the sample was trained with. The trained weights then go back onto the grid of the file they came
from, so that the new file has at most 5 % more bytes. Printed are the errors against the exact solution of the
original, of the file, of the trained network, and of its file.
"""

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from burgers import VISCOSITY, draw, residuals
from gauss_newton import GaussNewton, Problem, tangent_kernel
from torch import Tensor
from training import HERE, Network, error_of, load_reference, setup

from hmcompress import compress, decompress, verify
from hmcompress.config import load_settings
from hmcompress.nn.refit import refit
from hmcompress.report.records import Report

CONFIG = HERE.parent / "configs" / "burgers.yaml"
SAME_POINTS = 6  # steps before fresh points are drawn: with the weights' number above theirs, more would fit only those
CURVE, SHOWN = 200, 40  # steps of gradient descent, and between two losses shown
RATE = 0.5  # of gradient descent, over the largest eigenvalue of the original's kernel; 2 is where it stops to converge


def compressed(folder: Path, tol: float, ntk: str, effort: str) -> tuple[Path, Report]:
    """The sample's file, its tangent kernel kept to the tolerance `ntk` or, where that is off, not at all."""
    bound = False if ntk == "off" else {"tol": float(ntk)}
    settings = load_settings(CONFIG, {"tol": tol, "ntk": bound, "effort": effort})
    file = folder / f"burgers_{ntk}.hmc.safetensors"
    return file, compress(HERE / "burgers.pt", file, settings=settings)


def small_network(file: Path) -> Network:
    """The slim network of a compressed file, as a plain module in float64."""
    decompress(file, file.with_name("small.pt"), slim=True, force=True)
    saved = torch.load(file.with_name("small.pt"), weights_only=True)
    network = Network(saved["layer_sizes"])
    network.load_state_dict(saved["state_dict"])
    return network.double()


def original_network() -> Network:
    network = Network([2, 128, 128, 128, 128, 1])
    network.load_state_dict(torch.load(HERE / "burgers.pt", weights_only=True))
    return network.double()


def problem_of(network: Network, interior: int) -> Problem:
    """Equation and conditions on fresh points."""
    return partial(residuals, draw(network, interior, VISCOSITY), interior, VISCOSITY)


def train(network: Network, steps: int, interior: int) -> None:
    """Go on with the PINN's own training."""
    optimiser = GaussNewton(network)
    for step in range(steps):
        if step % SAME_POINTS == 0:
            problem = problem_of(network, interior)
        optimiser.step(problem)


def largest_eigenvalue(network: Network, problem: Problem) -> float:
    """Of the tangent kernel of the residuals: what limits the rate of gradient descent."""
    residual, jet = problem(network)
    return torch.linalg.eigvalsh(tangent_kernel(jet, residual))[-1].item()


def descent(network: Network, problem: Problem, rate: float) -> Iterator[float]:
    """The loss before each step of plain gradient descent."""
    for _ in range(CURVE + 1):
        loss = problem(network)[0].square().sum()
        yield loss.item()
        slopes = torch.autograd.grad(loss / 2, list(network.parameters()))
        with torch.no_grad():
            for weight, slope in zip(network.parameters(), slopes, strict=True):
                weight -= rate * slope


def curves(folder: Path, options: argparse.Namespace) -> None:
    """The same gradient descent for the original and for the files with and without the kernel's bound."""
    original = original_network()
    networks = {"original": original}
    for ntk in ("0.1", "off"):
        networks[f"file, ntk {ntk}"] = small_network(compressed(folder, options.tol, ntk, options.effort)[0])
    problem = problem_of(original, options.interior)
    rate = RATE / largest_eigenvalue(original, problem)
    for name, network in networks.items():
        largest = largest_eigenvalue(network, problem)
        losses = [f"{loss:.1e}" for k, loss in enumerate(descent(network, problem, rate)) if k % SHOWN == 0]
        print(f"{name}: largest eigenvalue {largest:.4g}, loss {' '.join(losses)}", flush=True)


def fine_tune(folder: Path, options: argparse.Namespace, reference: dict[str, Tensor]) -> None:
    """The recipe."""
    file, report = compressed(folder, options.tol, options.ntk, options.effort)
    found = report.network.reference
    print(f"original {found.before:.2e}, file of {report.output_bytes:,} bytes {found.after:.2e}", flush=True)
    network = small_network(file)
    print(f"{[layer.out_features for layer in network.linears()]} neurons: {error_of(network, reference):.2e}")
    train(network, options.steps, options.interior)
    print(f"after {options.steps} steps {error_of(network, reference):.2e}", flush=True)
    trained, output = folder / "trained.pt", folder / "trained.hmc.safetensors"
    torch.save({name: tensor.float() for name, tensor in network.state_dict().items()}, trained)
    again = refit(file, trained, output)
    share = again.output_bytes / report.output_bytes
    print(f"its file {again.output_bytes:,} bytes ({share:.1%}), error {again.network.reference.after:.2e}")
    print(f"off the trained network by {again.network.error:.2e}, verified: {verify(output, against=trained).passed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ntk", default="off", help="tolerance of the tangent kernel, or off")
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--interior", type=int, default=1200, help="points of the equation")
    parser.add_argument("--effort", choices=("fast", "default", "max"), default="default")
    parser.add_argument("--curves", action="store_true", help="show gradient descent in place of the recipe")
    options = parser.parse_args()
    setup(seed=1)
    with tempfile.TemporaryDirectory() as name:
        if options.curves:
            curves(Path(name), options)
        else:
            fine_tune(Path(name), options, load_reference("burgers"))


if __name__ == "__main__":
    main()

"""Fine-tune the Burgers sample from its compressed file: load, go on with its own training, write it back, compare.

    python sample_models/finetune_burgers.py --steps 100 # some minutes on one core
    python sample_models/finetune_burgers.py --curves    # gradient descent with the tangent kernel kept, and without

The first file keeps the tangent kernel, since its network will be trained. It is loaded as it runs, without its dead
neurons, and sees its equation and conditions again, by Gauss-Newton steps, which is what the sample was trained with.
The result will not be trained any more: its file bounds the function alone, at the smallest of some tolerances that
needs at most 5 % more bytes than the first file. Printed are the errors against the exact solution of the original, of
the file, of the trained network, of its file, and of the original's own file at that tolerance.
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
from hmcompress.report.records import Report
from hmcompress.settings.config import load_settings

ORIGINAL, CONFIG = HERE / "burgers.pt", HERE.parent / "configs" / "burgers.yaml"
SAME_BYTES = 1.05  # how many more bytes the file of the trained network may have
FINER = (0.05, 0.1, 0.2, 0.5, 1.0)  # times the first tolerance: what the second file is tried at
SAME_POINTS = 6  # steps before fresh points are drawn: with the weights' number above theirs, more would fit only those
CURVE, SHOWN = 200, 40  # steps of gradient descent, and between two losses shown
RATE = 0.5  # of gradient descent, over the largest eigenvalue of the original's kernel; 2 is where it stops to converge


def compressed(source: Path, file: Path, tol: float, ntk: str) -> Report:
    """A file of a network, its tangent kernel kept to the tolerance `ntk` or, where that is off, not at all."""
    bound = False if ntk == "off" else {"tol": float(ntk)}
    return compress(source, file, settings=load_settings(CONFIG, {"tol": tol, "ntk": bound}), force=True)


def small_network(file: Path) -> Network:
    """The slim network of a compressed file, as a plain module in float64."""
    decompress(file, file.with_name("small.pt"), slim=True, force=True)
    saved = torch.load(file.with_name("small.pt"), weights_only=True)
    network = Network(saved["layer_sizes"])
    network.load_state_dict(saved["state_dict"])
    return network.double()


def original_network() -> Network:
    network = Network([2, 128, 128, 128, 128, 1])
    network.load_state_dict(torch.load(ORIGINAL, weights_only=True))
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
        compressed(ORIGINAL, folder / "file.hmc.safetensors", options.tol, ntk)
        networks[f"file, ntk {ntk}"] = small_network(folder / "file.hmc.safetensors")
    problem = problem_of(original, options.interior)
    rate = RATE / largest_eigenvalue(original, problem)
    for name, network in networks.items():
        largest = largest_eigenvalue(network, problem)
        losses = [f"{loss:.1e}" for k, loss in enumerate(descent(network, problem, rate)) if k % SHOWN == 0]
        print(f"{name}: largest eigenvalue {largest:.4g}, loss {' '.join(losses)}", flush=True)


def fine_tune(folder: Path, options: argparse.Namespace, reference: dict[str, Tensor]) -> None:
    """The recipe."""
    file, trained, again = (folder / name for name in ("file.hmc.safetensors", "trained.pt", "again.hmc.safetensors"))
    first = compressed(ORIGINAL, file, options.tol, options.ntk)
    print(f"original {first.network.reference.before:.2e}, file {_line(first)}", flush=True)
    network = small_network(file)
    print(f"{[layer.out_features for layer in network.linears()]} neurons: {error_of(network, reference):.2e}")
    train(network, options.steps, options.interior)
    print(f"after {options.steps} steps {error_of(network, reference):.2e}", flush=True)
    torch.save({name: tensor.float() for name, tensor in network.state_dict().items()}, trained)
    for share in FINER:
        second = compressed(trained, again, options.tol * share, "off")
        print(f"its file at {second.tol:g}: {_line(second)}", flush=True)
        if second.output_bytes <= SAME_BYTES * first.output_bytes:
            break
    print(f"verified: {verify(again, against=trained).passed}")
    print(f"the original's file at {second.tol:g}: {_line(compressed(ORIGINAL, again, second.tol, 'off'))}")


def _line(report: Report) -> str:
    return f"{report.output_bytes:,} bytes, error {report.network.reference.after:.2e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ntk", default="0.1", help="tolerance of the tangent kernel of the first file, or off")
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--interior", type=int, default=1200, help="points of the equation")
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

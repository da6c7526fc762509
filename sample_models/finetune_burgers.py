"""Fine-tune the Burgers sample from its compressed file: load, go on with its own training, recompress, compare.

    python sample_models/finetune_burgers.py             # about ten minutes on one core
    python sample_models/finetune_burgers.py --ntk off   # the function alone, no tangent kernel

The network is loaded as it runs, without its dead neurons, and sees its equation and conditions again: 500 steps of
Adam at the rate of the original training, or of Gauss-Newton, which is what the sample was trained with. Printed are
the errors against the exact solution of the original, of the file, of the trained network, and of the file of the
trained network at the same bytes.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from burgers import VISCOSITY, draw, residuals
from gauss_newton import GaussNewton, Problem
from torch import Tensor
from training import HERE, Network, adam, error_of, load_reference, setup

from hmcompress import compress, decompress
from hmcompress.config import load_settings

CONFIG = HERE.parent / "configs" / "burgers.yaml"
INTERIOR = 600
SAME_BYTES = 1.05  # how many more bytes the file of the trained network may have


def small_network(file: Path, folder: Path) -> Network:
    """The slim network of a compressed file, as a plain module in float64."""
    decompress(file, folder / "small.pt", slim=True, force=True)
    saved = torch.load(folder / "small.pt", weights_only=True)
    network = Network(saved["layer_sizes"])
    network.load_state_dict(saved["state_dict"])
    return network.double()


def train(network: Network, method: str, steps: int) -> None:
    """Go on with the PINN's own training: equation and conditions, fresh points every tenth of the way."""
    optimiser = GaussNewton(network)
    for _ in range(10):
        problem = partial(residuals, draw(network, INTERIOR, VISCOSITY), INTERIOR, VISCOSITY)
        if method == "adam":
            adam(network, partial(loss, problem, network), steps // 10, rate=1e-3, log=steps)
        else:
            for _ in range(steps // 10):
                optimiser.step(problem)


def loss(problem: Problem, network: Network) -> Tensor:
    return problem(network)[0].square().sum()


def recompressed(network: Network, folder: Path, tol: float, ntk: str, most: int) -> tuple[float, int, float]:
    """The smallest of some tolerances whose file has at most that many bytes; its bytes, and its error."""
    torch.save({name: t.detach().float() for name, t in network.state_dict().items()}, folder / "tuned.pt")
    for tried in (0.7 * tol, tol, 1.4 * tol, 2 * tol, 3 * tol):
        settings = load_settings(CONFIG, {"tol": tried, "ntk": settings_of(ntk)})
        report = compress(folder / "tuned.pt", folder / "tuned.hmc.safetensors", settings=settings, force=True)
        if report.output_bytes <= most:
            break
    return tried, report.output_bytes, report.network.reference.after


def settings_of(ntk: str) -> dict | bool:
    return False if ntk == "off" else {"tol": float(ntk)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ntk", default="0.1", help="tolerance of the tangent kernel, or off")
    parser.add_argument("--tol", type=float, default=1e-2)
    parser.add_argument("--method", choices=("adam", "gauss-newton"), default="gauss-newton")
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    setup(seed=1)
    reference: dict[str, Tensor] = load_reference("burgers")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = load_settings(CONFIG, {"tol": options.tol, "ntk": settings_of(options.ntk)})
        report = compress(HERE / "burgers.pt", folder / "burgers.hmc.safetensors", settings=settings)
        found = report.network.reference
        print(f"original {found.before:.2e}, file of {report.output_bytes:,} bytes {found.after:.2e}")
        network = small_network(folder / "burgers.hmc.safetensors", folder)
        print(f"{[layer.out_features for layer in network.linears()]} neurons: {error_of(network, reference):.2e}")
        train(network, options.method, options.steps)
        print(f"after {options.steps} steps of {options.method} {error_of(network, reference):.2e}")
        most = int(SAME_BYTES * report.output_bytes)
        tol, size, error = recompressed(network, folder, options.tol, options.ntk, most)
        print(f"recompressed at {tol:g}: {size:,} bytes, error {error:.2e}")


if __name__ == "__main__":
    main()

"""Writes golden/outputs_1.*: the Burgers sample under a bound on its outputs, and the weights it decodes to.

`python tests/network/make_golden_outputs.py`, about a minute. Frozen once its format version is released.
"""

from pathlib import Path

import numpy as np

import hmcompress
from hmcompress.config import load_settings

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    file = GOLDEN / "outputs_1.hmc.safetensors"
    settings = load_settings(ROOT / "configs" / "burgers.yaml", {"effort": "fast", "ntk": False})
    hmcompress.compress(ROOT / "sample_models" / "burgers.pt", file, settings=settings, force=True)
    decoded = {name: tensor.numpy() for name, tensor in hmcompress.load_state_dict(file).items()}
    np.savez_compressed(GOLDEN / "outputs_1.npz", **decoded)


if __name__ == "__main__":
    main()

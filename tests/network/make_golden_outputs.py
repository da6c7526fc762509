"""Writes golden/outputs_N.*: the Burgers sample under a bound on its outputs, and the weights it decodes to.

`python tests/network/make_golden_outputs.py [N]...`, about a minute each. 1: layer by layer (codec weighted); 2: by the
joint stage (codec compact). Frozen once their format version is released.
"""

import sys
from pathlib import Path

import numpy as np

import hmcompress
from hmcompress.settings.config import load_settings

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"


EFFORTS = {"1": "fast", "2": "default"}


def write(number: str) -> None:
    GOLDEN.mkdir(exist_ok=True)
    file = GOLDEN / f"outputs_{number}.hmc.safetensors"
    settings = load_settings(ROOT / "configs" / "burgers.yaml", {"effort": EFFORTS[number], "ntk": False})
    hmcompress.compress(ROOT / "sample_models" / "burgers.pt", file, settings=settings, force=True)
    decoded = {name: tensor.numpy() for name, tensor in hmcompress.load_state_dict(file).items()}
    np.savez_compressed(GOLDEN / f"outputs_{number}.npz", **decoded)


def main() -> None:
    for number in sys.argv[1:] or EFFORTS:
        write(number)


if __name__ == "__main__":
    main()

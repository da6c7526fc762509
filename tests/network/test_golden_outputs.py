"""A file with a bound on outputs, written by the first release, decodes for ever to the same weights."""

from pathlib import Path

import numpy as np
import pytest

import hmcompress

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("number", [1, 2])  # layer by layer, and by the joint stage
def test_a_file_of_version_1_decodes_to_its_weights(number: int) -> None:
    tensors = hmcompress.load_state_dict(GOLDEN / f"outputs_{number}.hmc.safetensors")
    with np.load(GOLDEN / f"outputs_{number}.npz") as decoded:
        assert list(tensors) == list(decoded)
        for name, tensor in tensors.items():
            np.testing.assert_allclose(tensor.numpy(), decoded[name], rtol=1e-6, atol=0, err_msg=name)

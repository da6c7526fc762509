"""A file with a bound on outputs, written by the first release, decodes for ever to the same weights."""

from pathlib import Path

import numpy as np

import hmcompress

GOLDEN = Path(__file__).parent / "golden"


def test_a_file_of_version_1_decodes_to_its_weights() -> None:
    tensors = hmcompress.load_state_dict(GOLDEN / "outputs_1.hmc.safetensors")
    with np.load(GOLDEN / "outputs_1.npz") as decoded:
        assert list(tensors) == list(decoded)
        for name, tensor in tensors.items():
            np.testing.assert_allclose(tensor.numpy(), decoded[name], rtol=1e-6, atol=0, err_msg=name)

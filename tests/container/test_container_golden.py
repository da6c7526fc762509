"""Files of released format versions decode for ever to the bits they decoded to then."""

import pytest
import torch
from container_files import read
from make_golden import COMPRESSED, FILES, INFO, STANDING, VIEWS, standing
from safetensors.torch import load_file

from hmcompress.container import CompressedFile
from hmcompress.container.based import is_based


@pytest.mark.parametrize(("file", "decoded"), FILES)
def test_golden_file_decodes_to_the_same_bits(file, decoded):
    back, expected = read(file), load_file(decoded)
    assert back.keys() == expected.keys()
    for name, tensor in expected.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_golden_file_still_says_what_it_said():
    file = CompressedFile.open(COMPRESSED)
    info = file.index.info
    assert {key: getattr(info, key) for key in INFO} == INFO and info.views == VIEWS
    assert [row.name for row in file.layers] == [
        "noise.weight", "kernel.weight", "low_rank.weight", "dead.weight", "stack", "half.weight", "zero.weight",
    ]  # fmt: skip
    assert all(row.error <= 0.01 and row.crc32 > 0 for row in file.layers)


def test_golden_file_of_standing_layers_has_some_of_each_type():
    file, back, original = CompressedFile.open(STANDING), read(STANDING), standing()
    based = [row.name for row in file.layers if is_based(file.payload(row))]
    assert sorted({name.split(".")[0] for name in based}) == ["double", "half", "single"] and len(based) == 12
    for name, w in original.items():
        assert (back[name].double() - w.double()).norm() <= 0.02 * w.double().norm()

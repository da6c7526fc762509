"""Files of released format versions decode for ever to the bits they decoded to then."""

import torch
from container_files import read
from make_golden import COMPRESSED, DECODED, INFO, VIEWS
from safetensors.torch import load_file

from hmcompress.container import CompressedFile


def test_golden_file_decodes_to_the_same_bits():
    back, expected = read(COMPRESSED), load_file(DECODED)
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

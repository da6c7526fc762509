"""Claims about the message on weights that a network never uses: few patterns take in all of them."""

from pathlib import Path

import pytest
import small_networks
from small_networks import build_idle_blocks, outputs_settings, saved

from hmcompress.errors import NetworkError
from hmcompress.network import compress_network
from hmcompress.network.layerwise.others import _patterns


def test_matrices_of_all_blocks_that_go_unused_are_one_pattern() -> None:
    used, unused = {"a.0.w", "a.1.w", "b.w"}, ["a.0.w_inv", "a.1.w_inv", "b.v"]
    assert _patterns(unused, used) == ["*.w_inv", "b.v"]


def test_counters_and_zeros_of_an_ignored_block_do_not_part_its_pattern(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, build_idle_blocks().state_dict())
    factory = {"factory": f"{small_networks.__file__}:build_idle_blocks"}
    with pytest.raises(NetworkError, match=r" with --exclude 'blocks\.idle\.\*' \("):
        compress_network(checkpoint, outputs_settings(network=factory))

"""One knob over a whole network: the coarsest setting that holds, and the finest within a number of bytes."""

import pytest
import torch
from baseline_matrices import noise

from hmcompress.baselines import PEERS, Matrix
from hmcompress.baselines.knobs import FINEST, Knob, NetworkPart, coarsest

W1, B1, W2 = noise(24, 20), noise(24, 1, 1).reshape(24), 0.01 * noise(18, 24, 2)
ORIGINAL = {"a": W1, "b": B1, "c": W2}


def parts(joined: bool) -> list[NetworkPart]:
    first = torch.cat([W1, B1[:, None]], 1) if joined else W1
    return [
        NetworkPart("a", "b", (W1, B1), (Matrix(first),), joined),
        NetworkPart("c", None, (W2,), (Matrix(W2),), False),
    ]


def weight_error(tensors) -> float:
    """Stands for a network: the largest relative error of a tensor."""
    return max(float((t - ORIGINAL[n]).norm() / ORIGINAL[n].norm()) for n, t in tensors.items())


def knob(name: str, joined: bool = True, absolute: bool = False) -> Knob:
    return Knob(PEERS[name], parts(joined), absolute, weight_error)


@pytest.mark.parametrize("start", [0, 40, 500, FINEST])
@pytest.mark.parametrize("first", [0, 1, 17, 333, FINEST])
def test_coarsest_finds_the_first_setting_that_holds(start, first):
    assert coarsest(lambda k: k >= first, start) == first


def test_coarsest_finds_nothing_where_nothing_holds():
    assert coarsest(lambda k: False, 100) is None


@pytest.mark.parametrize("name", ["quantization_entropy", "quantization", "pruning", "svd16"])
@pytest.mark.parametrize("joined", [True, False])
def test_the_setting_found_holds_the_network_error(name, joined):
    method = knob(name, joined)
    k = method.coarsest_within(0.02)
    assert method.error(k) <= 0.02
    assert weight_error(method.trial(k).decode()) == pytest.approx(method.error(k))


def test_the_setting_found_uses_the_network_error():
    method = knob("quantization_entropy")
    assert method.error(method.coarsest_within(0.02)) > 0.9 * 0.02


@pytest.mark.parametrize("name", ["quantization_entropy", "pruning", "svd32"])
def test_the_finest_setting_fits_the_bytes_and_a_finer_one_does_not(name):
    method = knob(name)
    k = method.finest_within(1500)
    assert method.nbytes(k) <= 1500
    assert k == FINEST or method.nbytes(k + 1) > 1500


def test_tensors_come_back_under_their_names_and_shapes():
    for joined in (True, False):
        tensors = knob("quantization_entropy", joined).trial(300).decode()
        assert {name: t.shape for name, t in tensors.items()} == {name: t.shape for name, t in ORIGINAL.items()}
        assert torch.equal(tensors["b"], B1) is not joined


def test_bytes_count_the_bias_where_it_is_kept():
    trial = knob("pruning", joined=False).trial(0)  # everything else at a relative error of 1
    assert trial.part_bytes == (24 * 4, 0)


def test_the_same_absolute_error_spends_more_on_the_larger_weights():
    relative, absolute = (knob("quantization_entropy", absolute=a).trial(150) for a in (False, True))
    assert absolute.part_bytes[0] > relative.part_bytes[0]
    assert absolute.part_bytes[1] < relative.part_bytes[1]

"""Other compressors, run as well as they can be run: each really encodes and decodes, each error is measured."""

from hmcompress.baselines.entropy import QUANTIZATION_ENTROPY
from hmcompress.baselines.lossless import LOSSLESS
from hmcompress.baselines.matrix import Matrix
from hmcompress.baselines.peer import Outcome, Peer, run_peer
from hmcompress.baselines.pruning import PRUNING
from hmcompress.baselines.quantization import QUANTIZATION
from hmcompress.baselines.svd import SVD16, SVD32

PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (SVD32, SVD16, QUANTIZATION, PRUNING, QUANTIZATION_ENTROPY, LOSSLESS)
}

__all__ = ["PEERS", "Matrix", "Outcome", "Peer", "run_peer"]

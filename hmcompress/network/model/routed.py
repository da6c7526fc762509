"""Layers that see only some samples, as experts that a gate chooses: which ones may change with the weights."""

from dataclasses import replace

from torch import Tensor

from hmcompress.network.model.network import DenseLayer, Inputs, Network, replaced

_COUNTED = 32  # samples


def with_routed(network: Network, inputs: Inputs) -> Network:
    """The network with those of its layers known whose rows do not grow by as many with each sample."""
    count = min(len(t) for t in inputs)
    if network.built_in or count < 3:
        return network
    count = min(count, _COUNTED)
    all_rows, fewer = (_rows(network, tuple(t[:n] for t in inputs)) for n in (count, count - 1))
    unlike = {name for name, rows in all_rows.items() if rows * (count - 1) != fewer.get(name, 0) * count}
    return replace(network, routed=frozenset(unlike))


def _rows(network: Network, inputs: Inputs) -> dict[str, int]:
    """Of each layer in one run."""
    rows: dict[str, int] = {}

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
        rows[layer.weight] = z.numel() // z.shape[-1]

    with replaced(network, note):
        network.run(inputs)
    return rows

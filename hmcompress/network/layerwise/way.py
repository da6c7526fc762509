"""The ways in which a search over passes may go about: where it begins, and what it turns."""

from dataclasses import dataclass, replace
from typing import Any

from hmcompress.network.layerwise.propagate import Knobs

START = 0.15  # water level over tolerance
Ladder = tuple[tuple[str, ...], tuple[float, ...]]  # knobs that are turned together, and their values
FLOORS: Ladder = (("floor",), (1e-6, 1e-4, 1e-2, 1.0))
LADDERS: tuple[Ladder, ...] = (
    (("variance",), (0.0, 0.6)),
    (("mu",), (1e-1, 1.0, 3e-2, 1e-3)),
    (("growth",), (1.2, 1.4, 1.7, 2.0)),
    (("ridge",), (1e-7, 1e-5, 1e-4)),
    (("dead_zone",), (0.0, 0.2)),
)
NOISY_LADDERS: tuple[Ladder, ...] = (
    (("shrinkage",), (15.0, 1.5)),
    (("ridge",), (1.0, 1e-2, 1e-3)),
    (("mu",), (1e-1, 1e-3)),
    (("variance",), (0.0, 0.6)),
    (("growth",), (1.2, 1.4)),
    (("dead_zone",), (0.0, 0.2)),
)
OTHER_LADDERS: tuple[Ladder, ...] = ((("dead_zone",), (0.0, 0.2)),)  # where there are no dense layers
KERNEL_LADDERS: tuple[Ladder, ...] = (  # where the tangent kernel is bounded too: how much each regulariser costs it
    (("variance",), (0.0, 1.0)),
    (("floor",), (1e-3, 3e-3, 1e-2, 3e-2)),
    (("floor",), (1e-4, 3e-5)),
    (("mu",), (1e-2, 1.0)),
    (("ridge",), (1e-3, 1e-5)),
    (("growth",), (1.15, 0.87)),
    (("dead_zone",), (0.05, 0.0)),
)
_FIRM: dict[str, Any] = {"mu": 0.1, "ridge": 1e-4, "floor": 3e-4}  # where firm ones begin
_LEAST_FLOOR = 1e-3  # with few samples


@dataclass(frozen=True)
class Way:
    """How a search goes about it: where it begins, and what it turns."""

    level: float = START  # first water level over tolerance
    firm: bool = False  # regularisers begin and turn as a bound on the tangent kernel asks for
    near: bool | None = False  # weights stay near the original ones, by regularisers for few samples; None: try both
    few: bool = False  # fewer samples than the widest layer needs
    rows: bool = False  # some layer sees several rows of a sample
    dense: bool = True  # without dense layers the water level and the dead zone alone change a pass, and few are enough
    slim: bool = False  # living neurons count beside bytes
    structured: frozenset[str] = frozenset()  # layers that the engine may code
    factored: frozenset[str] = frozenset()  # layers that may be products of two factors
    located: frozenset[str] = frozenset()  # of those: layers that may be operators between points in no order
    fields: bool = False  # some layers write fields, of which grids take advantage too

    def start(self, tol: float) -> Knobs:
        """Of the first pass."""
        knobs = Knobs(self.level * tol)
        knobs = replace(knobs, **_FIRM) if self.firm else knobs
        return replace(knobs, floor=max(knobs.floor, _LEAST_FLOOR)) if self.few else knobs

    def ladders(self, knobs: Knobs) -> tuple[Ladder, ...]:
        """What is turned around some knobs."""
        if not self.dense:
            found = OTHER_LADDERS
        elif self.firm:
            found = KERNEL_LADDERS
        else:
            found = NOISY_LADDERS if knobs.shrinkage else LADDERS
        return (FLOORS, *found) if self.few and not knobs.shrinkage else found


USUAL = Way()

"""How many passes the search may take: by the multiplications of one."""

from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.gradients import work_of_others
from hmcompress.network.layerwise.original import Original

_WORK, _STACK_WORK = 4e10, 5.2e11  # multiplications that the search may spend, and where all is dense stacks
_FEWEST = {"fast": 8, "default": 14, "max": 14}  # passes, by effort
_NUMBER = 4.0  # multiplications in the time of a number that is written
_FASTER = 20.0  # how much faster those of matrices are
_BRIEF = 20  # passes
_MOST = {"fast": 20, "default": 100, "max": 200}  # passes, by effort


def budget_of(problem: Problem, work: int, effort: str, times: int = 1, forward: float = 0.0) -> int:
    """Passes, each of so many multiplications, and of so many in the time that the network itself runs."""
    most = _most(problem, effort, times)
    stacks = problem.network.kind in ("mlp", "deeponet") and not problem.network.others
    allowed = min((_STACK_WORK if stacks else _WORK) / max(work, 1), _WORK / max(forward, 1.0))
    return int(min(max(allowed, _FEWEST[effort]), most))


def is_brief(problem: Problem, budget: int, effort: str) -> bool:
    """Whether passes take so long that the search has to do with few."""
    return budget < min(_BRIEF, _most(problem, effort))


def _most(problem: Problem, effort: str, times: int = 1) -> int:
    """Passes at most: one with tangents runs the network for each layer."""
    return times * _MOST[effort] // (1 + problem.order)


def cost_of(problem: Problem, data: Original) -> int:
    """Multiplications of a pass. A layer may see several rows of a sample: tokens, the edges of a graph."""
    cost = work_of_others(problem.network)
    for layer in problem.network.layers:
        m, n = problem.network.shape(layer)[0], problem.network.read(layer)
        cost += _cost_of_layer(m, n, data.targets[layer.weight][0].numel() // m)
    return cost


def forward_cost_of(problem: Problem, data: Original) -> float:
    """Multiplications in the time of the network's own runs in a pass, on calibration and on held-out points."""
    points = len(data.points) + len(problem.held_out.points)
    return points * (_NUMBER * data.size.numbers + data.size.multiplications / _FASTER)


def _cost_of_layer(m: int, n: int, rows: int) -> int:
    """By the nearest plane, or, of a layer that has few outputs or inputs, by the factors of its moments."""
    return max(m * n * (rows + m + n), (m**3 + n**3) // 3)

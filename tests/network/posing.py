"""Problems of modules that multiply by parameters of their own, and how far one such module is from another."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from small_networks import outputs_settings
from torch import nn

from hmcompress.network import pose
from hmcompress.network.bound.problem import Problem
from hmcompress.network.model.network import Network
from hmcompress.network.model.products import with_products

BOUND = 1e-2


def settings_in(networks: ModuleType, name: str, **changes: Any) -> Any:
    """For one of the modules of a file."""
    return outputs_settings(network={"factory": f"{Path(str(networks.__file__))}:{name}"}, tol=BOUND, **changes)


def posed_in(networks: ModuleType, name: str, **changes: Any) -> tuple[Problem, Network]:
    """The problem, and its network with layers for products."""
    module = getattr(networks, name)()
    problem = pose(settings_in(networks, name, **changes), module.state_dict())
    return problem, with_products(problem.network, problem.calibration.points, lambda name, w: False)


def error(module: nn.Module, other: nn.Module) -> float:
    """Of the outputs, relative, on points of the domain."""
    x = torch.rand(2000, 2, generator=torch.Generator().manual_seed(5))
    x[:, 0] = 2 * x[:, 0] - 1
    with torch.no_grad():
        y, z = module(x), other(x)
    return float((z - y).norm() / y.norm())

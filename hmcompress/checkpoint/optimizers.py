"""Optimizers that were pickled whole: their state is kept by parameter, and no parameter can be a key of a file."""

from typing import Any


def with_numbered_state(attributes: dict[Any, Any]) -> dict[Any, Any] | None:
    """The attributes of an optimizer, state under the number of each parameter in its groups, as state_dict has it.

    None for what is no optimizer.
    """
    state, groups = attributes.get("state"), attributes.get("param_groups")
    if not isinstance(state, dict) or not isinstance(groups, list):
        return None
    lists = [group.get("params") if isinstance(group, dict) else None for group in groups]
    if not all(isinstance(parameters, list) for parameters in lists):
        return None
    numbers = {id(p): number for number, p in enumerate(p for parameters in lists for p in parameters or ())}
    if not all(id(key) in numbers for key in state):
        return None
    return {**attributes, "state": {numbers[id(key)]: value for key, value in state.items()}}

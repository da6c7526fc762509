"""Configurations of OmegaConf (Hydra, Lightning) as the plain dicts, lists and values that they stand for."""

from typing import Any

from hmcompress.checkpoint.standins import StandIn

NOTE = "an OmegaConf configuration, kept as plain dicts, lists and values"
_CONTAINERS = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig")
_NODES = "omegaconf.nodes."


def is_config(value: StandIn) -> bool:
    """Whether this is a dict or a list of a configuration."""
    return value.class_name in _CONTAINERS and "_content" in (value.attributes() or {})


def is_config_value(value: StandIn) -> bool:
    """Whether this is a value in a configuration: a number, a text, a path, a member of an enum."""
    return value.class_name.startswith(_NODES) and "_val" in (value.attributes() or {})


def config_content(value: StandIn) -> Any:
    """What it holds: nodes where it is a container (text where it refers to another, None where there is none)."""
    attributes = value.attributes() or {}
    return attributes["_content"] if is_config(value) else attributes["_val"]

"""How long work tells its caller how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # what is being done, bytes (or steps) done, bytes (or steps) in all


def silent(what: str, done: int, total: int) -> None:
    """The progress of a caller who does not want to know."""

"""What there is to do to one tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """`work(load())`. `nbytes` is what load returns, and about what working on it takes."""

    nbytes: int
    load: Callable[[], Any]
    work: Callable[[Any], Any]

    def run(self) -> Any:
        """The result."""
        return self.work(self.load())

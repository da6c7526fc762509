"""Which task is next, where several are worked on at once: within a limit of memory, and so that all end together."""

from collections import deque
from collections.abc import Sequence

from hmcompress.work.tasks import Task

_ROOM, _PER_BYTE = 150_000_000, 5  # bytes for work beside the tensors: so many, and so many times the largest
_FACTOR = 13.0  # bytes that work on one takes, at most as far as is known before any was worked on
_TELLING = 1 << 21  # bytes of a task from which its memory tells what others will take


class Turns:
    """Hands out tasks: the first one that is left or, once all that are left may be begun, first and last by turns.

    Both ends of a network tend to take longer than its middle, and what is begun last should be short.
    limit: bytes of tasks that are begun and whose results nobody took yet; waiting: their number. A task may always be
    begun where nothing else is.
    """

    def __init__(self, tasks: Sequence[Task], limit: int, waiting: int) -> None:
        self._tasks, self._limit, self._waiting = tasks, limit, waiting
        self._rest, self._rest_bytes = deque(range(len(tasks))), sum(task.nbytes for task in tasks)
        self._room = _ROOM + _PER_BYTE * max((task.nbytes for task in tasks), default=0)
        self._begun = self._begun_bytes = self._busy_bytes = 0
        self._factor: float | None = None
        self._from_end = True

    def are_over(self) -> bool:
        """Whether all are begun."""
        return not self._rest

    def are_last(self) -> bool:
        """Whether all that are left may be begun."""
        return self._may_begin(len(self._rest), self._rest_bytes)

    def next(self) -> int | None:
        """The task to be begun now, or None."""
        if not self._rest:
            return None
        from_end = self.are_last() and not self._from_end
        k = self._rest[-1 if from_end else 0]
        if not self._has_room(self._tasks[k].nbytes) or (self._begun and not self._may_begin(1, self._tasks[k].nbytes)):
            return None
        self._from_end = from_end
        self.begin(k)
        return k

    def begin(self, k: int) -> None:
        """It is worked on now; it must be the first or the last that is left."""
        taken = self._rest.popleft() if k == self._rest[0] else self._rest.pop()
        assert taken == k
        nbytes = self._tasks[k].nbytes
        self._begun += 1
        self._begun_bytes += nbytes
        self._busy_bytes += nbytes
        self._rest_bytes -= nbytes

    def end(self, k: int, memory: int, largest: int) -> None:
        """Work on it has ended; it was done where work has taken so much memory so far, on tasks of up to `largest`."""
        self._busy_bytes -= self._tasks[k].nbytes
        if largest >= _TELLING:
            self._factor = max(self._factor or 0.0, memory / largest)

    def take(self, k: int) -> None:
        """Its result has been taken."""
        self._begun, self._begun_bytes = self._begun - 1, self._begun_bytes - self._tasks[k].nbytes

    def _may_begin(self, tasks: int, nbytes: int) -> bool:
        return self._begun + tasks <= self._waiting and self._begun_bytes + nbytes <= self._limit

    def _has_room(self, nbytes: int) -> bool:
        """Whether one more may be worked on in the memory there is; the first one always may."""
        factor = _FACTOR if self._factor is None else self._factor
        return not self._busy_bytes or factor * (self._busy_bytes + nbytes) <= self._room

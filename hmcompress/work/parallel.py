"""Work on several tensors at once, results in order, with a limit on the bytes that wait."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from hmcompress.work.forks import Forks, may_fork
from hmcompress.work.tasks import Task

IN_FLIGHT = 64 << 20  # bytes of source tensors; a larger tensor goes alone
_LARGE = (32 << 20) - (1 << 14)  # bytes: about the largest array that glibc learns from
_WORTH = 1 << 20  # bytes of tasks that are worth a process
_WORTH_A_THREAD = 48 << 20  # of quick ones, a thread: threads take turns at Python's lock, and each turn takes a while
_ENDING = 1.0  # seconds that a thread may take to end
_WAITING = 32  # tensors a thread that may wait, so that a slow one keeps no other thread idle


def workers(jobs: int | None) -> int:
    """How many tensors are worked on at once: as asked, else one for each processor this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return jobs or len(os.sched_getaffinity(0))
    return jobs or os.cpu_count() or 1


def nothing() -> None:
    """Nobody wants to know."""


def in_order(
    tasks: Iterable[Task], jobs: int | None = None, *, apart: bool = False, near_end: Callable[[], None] = nothing
) -> Iterator[Any]:
    """The results of the tasks, in their order, whatever `jobs` is; the first exception ends it.

    Linear algebra runs in one thread each: results do not depend on how many work side by side.
    apart: in processes of their own where that is safe and worth it; results then are copies. For work that is mostly
    Python. near_end: called, maybe often, when all that is left may be begun at once.
    """
    tasks = list(tasks)
    if not tasks:  # to look for libraries with threads takes milliseconds
        return near_end()
    keep_freed_memory()
    with one_thread(), threadpool_limits(1):
        yield from _in_order(tasks, workers(jobs), apart, near_end)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch works in one thread meanwhile: for many small operations, between which others would wait in a loop."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_order(tasks: Sequence[Task], count: int, apart: bool, near_end: Callable[[], None]) -> Iterator[Any]:
    nbytes = sum(task.nbytes for task in tasks)
    count = min(count, len(tasks))
    threads = count if apart else min(count, nbytes // _WORTH_A_THREAD)
    processes = min(count, nbytes // _WORTH) if apart else 0
    if threads <= 1:  # a thread of its own would keep more freed memory
        return _alone(tasks, near_end)
    if processes > 1 and may_fork():
        return _apart(tasks, processes, near_end)
    return _together(tasks, threads, near_end)


class Later:
    """The result of `work`, done in a thread once it is started; nobody waits for it when the program ends early."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._future, self._begun = work, Future[Any](), False

    def start(self) -> None:
        """Begin, unless that has been done."""
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._work())
        except Exception as error:
            self._future.set_exception(error)

    def result(self) -> Any:
        """What the work returned, or the exception that it raised."""
        self.start()
        return self._future.result()


def keep_freed_memory() -> None:
    """Let arrays of a few megabytes take the place of freed ones instead of new pages, which cost more than sums.

    glibc keeps twice as much free memory as the largest array that it has seen freed; other libraries do not mind.
    """
    np.empty(_LARGE, np.uint8)


def _alone(tasks: Sequence[Task], near_end: Callable[[], None]) -> Iterator[Any]:
    near_end()
    for task in tasks:
        yield task.run()


def _apart(tasks: Sequence[Task], count: int, near_end: Callable[[], None]) -> Iterator[Any]:
    with closing(Forks(tasks, count, IN_FLIGHT)) as forks:
        yield from forks.results(near_end)


def _together(tasks: Sequence[Task], count: int, near_end: Callable[[], None]) -> Iterator[Any]:
    waiting: deque[tuple[int, Future[Any]]] = deque()
    mine: set[int] = set()
    pool = ThreadPoolExecutor(count, initializer=_begin, initargs=(mine,))
    try:
        for task in tasks:
            while waiting and (len(waiting) >= _WAITING * count or _bytes(waiting) + task.nbytes > IN_FLIGHT):
                yield waiting.popleft()[1].result()
            waiting.append((task.nbytes, pool.submit(task.work, task.load())))
        near_end()
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
        _wait_for_end(mine)


def _begin(threads: set[int]) -> None:
    torch.set_num_threads(1)
    threads.add(threading.get_native_id())


def _wait_for_end(threads: set[int]) -> None:
    """Until Linux has ended these threads, which is after Python has.

    Last of all they free their buffers under locks of MKL: a copy of the process that is made meanwhile has these
    locks too, and nobody to open them.
    """
    latest = time.monotonic() + _ENDING
    while any(os.path.exists(f"/proc/self/task/{thread}") for thread in threads) and time.monotonic() < latest:
        time.sleep(1e-4)


def _bytes(waiting: Iterable[tuple[int, Any]]) -> int:
    return sum(nbytes for nbytes, _ in waiting)

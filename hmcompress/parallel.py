"""Work on several tensors at once, results in order, with a limit on the bytes that wait."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

IN_FLIGHT = 64 << 20  # bytes of source tensors; a larger tensor goes alone
_LARGE = (32 << 20) - (1 << 14)  # bytes: about the largest array that glibc learns from
_WAITING = 32  # tensors a thread that may wait, so that a slow one keeps no other thread idle


@dataclass(frozen=True)
class Task:
    """`work(load())`; `load` runs in the caller's thread, `work` in any. `nbytes` is what load returns."""

    nbytes: int
    load: Callable[[], Any]
    work: Callable[[Any], Any]


def workers(jobs: int | None) -> int:
    """The number of threads: as asked, else one for each processor this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return jobs or len(os.sched_getaffinity(0))
    return jobs or os.cpu_count() or 1


def in_order(tasks: Iterable[Task], jobs: int | None = None) -> Iterator[Any]:
    """The results of the tasks, in their order, whatever `jobs` is; the first exception ends it.

    Linear algebra runs in one thread each: results do not depend on how many work side by side.
    """
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield from _alone(tasks) if workers(jobs) == 1 else _together(tasks, workers(jobs))
    finally:
        torch.set_num_threads(threads)


def beside(work: Callable[[], Any]) -> Future[Any]:
    """The result of `work`, done in a thread that nobody waits for when the program ends early."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def keep_freed_memory() -> None:
    """Let arrays of a few megabytes take the place of freed ones instead of new pages, which cost more than sums.

    glibc keeps twice as much free memory as the largest array that it has seen freed; other libraries do not mind.
    """
    np.empty(_LARGE, np.uint8)


def _alone(tasks: Iterable[Task]) -> Iterator[Any]:
    for task in tasks:
        yield task.work(task.load())


def _together(tasks: Iterable[Task], count: int) -> Iterator[Any]:
    waiting: deque[tuple[int, Future[Any]]] = deque()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for task in tasks:
            while waiting and (len(waiting) >= _WAITING * count or _bytes(waiting) + task.nbytes > IN_FLIGHT):
                yield waiting.popleft()[1].result()
            waiting.append((task.nbytes, pool.submit(task.work, task.load())))
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _bytes(waiting: Iterable[tuple[int, Any]]) -> int:
    return sum(nbytes for nbytes, _ in waiting)

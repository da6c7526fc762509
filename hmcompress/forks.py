"""Work in copies of this process: Python runs one thread at a time, and coding a structured matrix is mostly Python.

A copy inherits the tasks and loads what it works on by itself; only results pass through pipes. It ends with its
parent, however that ends. What a lost copy was at is done again by the parent.
"""

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

import torch

from hmcompress.tasks import Task

_FOREIGN = {"grpc", "jax", "mpi4py", "ray", "tensorflow"}  # their threads hold locks that a copy never gets
_HARMLESS = ("rich.", "tqdm.")  # modules of threads that draw progress: a copy writes nothing
_PATIENCE = 10.0  # seconds until a copy must have said that it runs
_PR_SET_PDEATHSIG = 1  # of Linux
_F_SETPIPE_SZ, _PIPE = 1031, 1 << 20  # of Linux, and the most bytes that users may ask for
_READY = -1  # what it says then, in place of a task
_WAITING = 32  # results a copy that may wait for an earlier one


def may_fork() -> bool:
    """Whether a copy of this process would run: nothing in it may hold a lock that the copy needs."""
    if sys.platform != "linux" or multiprocessing.current_process().daemon or torch.cuda.is_initialized():
        return False
    return not _FOREIGN & sys.modules.keys() and _is_alone()


def _is_alone() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return all(type(thread).__module__.startswith(_HARMLESS) for thread in others)


@dataclass(frozen=True, eq=False)
class _Copy:
    """A copy of this process, the pipe to it and the one from it."""

    process: ForkProcess
    orders: Connection
    answers: Connection

    def answer(self) -> tuple[bool, Any] | None:
        """What it says, or None where it was lost."""
        try:
            return self.answers.recv()
        except (EOFError, OSError):
            return None

    def dismiss(self) -> None:
        """Let it go; it ends when it looks for an order."""
        self.orders.close()
        self.answers.close()

    def end(self) -> None:
        """End it, whatever it does."""
        self.dismiss()
        self.process.kill()
        self.process.join()


class Forks:
    """Copies of this process that work on the tasks they are given. Close it: copies that work are ended.

    limit: bytes of tasks that are begun and whose results nobody took yet, or a single task.
    """

    def __init__(self, tasks: Sequence[Task], count: int, limit: int) -> None:
        self._tasks = tasks
        self._copies: list[_Copy] = []
        self._idle: list[_Copy] = []
        self._busy: dict[Connection, tuple[_Copy, int]] = {}
        self._leaving: list[_Copy] = []
        with contextlib.suppress(OSError):  # too many processes, too little memory: those that run are enough
            for _ in range(count):
                self._copies.append(_fork(tasks, self._copies))
        for copy in list(self._copies):
            if copy.answers.poll(_PATIENCE) and copy.answer() is not None:
                self._idle.append(copy)
            else:
                self._lose(copy)
        self._turns = _Turns(tasks, limit, _WAITING * max(len(self._copies), 1))

    def results(self, near_end: Callable[[], None]) -> Iterator[Any]:
        """The results in the tasks' order. near_end: called, maybe often, when all that is left may be begun."""
        done: dict[int, tuple[bool, Any]] = {}
        for k, task in enumerate(self._tasks):
            while k not in done:
                self._hand_out(near_end)
                done.update(self._answers() if self._busy else {k: self._turns.do(k)})
            good, result = done.pop(k)
            if not good:
                raise result
            self._turns.take(task)
            yield result

    def _hand_out(self, near_end: Callable[[], None]) -> None:
        """Give the copies that have nothing to do a task each, as far as the limit allows."""
        while self._idle and (k := self._turns.next()) is not None:
            copy = self._idle.pop()
            self._busy[copy.answers] = copy, k
            with contextlib.suppress(OSError):  # its end is met when it is waited for
                copy.orders.send(k)
            if self._turns.are_last():
                near_end()

    def _answers(self) -> dict[int, tuple[bool, Any]]:
        """What has become ready, at least one; a lost copy's task is done here."""
        answers = {}
        for connection in wait(list(self._busy)):
            assert isinstance(connection, Connection)
            copy, k = self._busy.pop(connection)
            answer = copy.answer()
            if answer is None:
                self._lose(copy)
            elif self._turns.are_over():
                self._dismiss(copy)
            else:
                self._idle.append(copy)
            answers[k] = answer or _run(self._tasks[k])
        return answers

    def _dismiss(self, copy: _Copy) -> None:
        """Let a copy go while others work: taking down its memory takes a while."""
        self._copies.remove(copy)
        self._leaving.append(copy)
        copy.dismiss()

    def _lose(self, copy: _Copy) -> None:
        self._copies.remove(copy)
        copy.end()

    def close(self) -> None:
        """End all copies."""
        for copy in list(self._copies):
            self._lose(copy)
        for copy in self._leaving:
            copy.process.join()


def _fork(tasks: Sequence[Task], others: Sequence[_Copy]) -> _Copy:
    (their_orders, orders), (answers, their_answers) = (multiprocessing.Pipe(duplex=False) for _ in range(2))
    # An open end of ours in a copy would keep others from seeing that the parent is gone.
    unwanted = [orders, answers, *(end for other in others for end in (other.orders, other.answers))]
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(tasks, their_orders, their_answers, unwanted), daemon=True
    )
    with warnings.catch_warnings():  # that threads of libraries run: see may_fork
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    their_orders.close()
    their_answers.close()
    with contextlib.suppress(OSError):  # then a copy waits a little until its result is taken
        fcntl.fcntl(answers.fileno(), _F_SETPIPE_SZ, _PIPE)
    return _Copy(process, orders, answers)


class _Turns:
    """Which task is next: the first one that is left. Once all that are left may be begun, first and last by turns:
    both ends of a network tend to take longer than its middle, and what is begun last should be short.
    """

    def __init__(self, tasks: Sequence[Task], limit: int, waiting: int) -> None:
        self._tasks, self._limit, self._waiting = tasks, limit, waiting
        self._rest, self._rest_bytes = deque(range(len(tasks))), sum(task.nbytes for task in tasks)
        self._begun = self._begun_bytes = 0
        self._from_end = True

    def are_over(self) -> bool:
        return not self._rest

    def are_last(self) -> bool:
        """Whether all that are left may be begun."""
        return self._may_begin(len(self._rest), self._rest_bytes)

    def next(self) -> int | None:
        """The task to be begun now, or None."""
        if not self._rest or (self._begun and not self._may_begin(1, self._tasks[self._rest[0]].nbytes)):
            return None
        self._from_end = self.are_last() and not self._from_end
        return self._begin(self._rest.pop() if self._from_end else self._rest.popleft())

    def do(self, k: int) -> tuple[bool, Any]:
        """The result of the task, which is next, where no copy does it."""
        self._rest.remove(k)
        return _run(self._tasks[self._begin(k)])

    def take(self, task: Task) -> None:
        """Its result has been taken."""
        self._begun, self._begun_bytes = self._begun - 1, self._begun_bytes - task.nbytes

    def _may_begin(self, tasks: int, nbytes: int) -> bool:
        return self._begun + tasks <= self._waiting and self._begun_bytes + nbytes <= self._limit

    def _begin(self, k: int) -> int:
        self._rest_bytes -= self._tasks[k].nbytes
        self._begun, self._begun_bytes = self._begun + 1, self._begun_bytes + self._tasks[k].nbytes
        return k


def _run(task: Task) -> tuple[bool, Any]:
    """Whether a task went well, and its result or error."""
    try:
        return True, task.run()
    except Exception as error:
        return False, error


def _serve(tasks: Sequence[Task], orders: Connection, answers: Connection, unwanted: Sequence[Connection]) -> None:
    """The life of a copy. It ends without cleaning up: all that it could clean up is its parent's."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(AttributeError, OSError):  # no work is gone on with for a parent that was killed
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for other in unwanted:
            other.close()
        torch.eye(2) @ torch.eye(2)  # what could hang does it before the parent counts on this copy
        answers.send((True, _READY))
        while True:
            _send(answers, _run(tasks[orders.recv()]))
    finally:
        os._exit(0)


def _send(connection: Connection, answer: tuple[bool, Any]) -> None:
    good, result = answer
    if not good:
        result.add_note("".join(traceback.format_exception(result)))  # where it happened is not pickled
    try:
        connection.send(answer)
    except (TypeError, ValueError, AttributeError) as error:  # what cannot be pickled
        connection.send((False, RuntimeError(f"{type(result).__name__} cannot leave its process: {error}")))

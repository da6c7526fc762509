"""Work in copies of this process: Python runs one thread at a time, and coding a structured matrix is mostly Python.

A copy inherits the tasks and loads what it works on by itself; only results pass through pipes. It ends with its
parent, however that ends. What a lost copy was at is done again by the parent.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from hmcompress.work.memory import peak_rss_bytes
from hmcompress.work.tasks import Task
from hmcompress.work.turns import Turns

if sys.platform != "win32":
    import fcntl

_FOREIGN = {"grpc", "jax", "mpi4py", "ray", "tensorflow"}  # their threads hold locks that a copy never gets
_HARMLESS = ("rich.", "tqdm.", "ipykernel.", "IPython.")  # threads that draw or talk: a copy does neither
_PATIENCE = 10.0  # seconds until all copies must have said that they run
_PR_SET_PDEATHSIG = 1  # of Linux
_F_SETPIPE_SZ, _PIPE = 1031, 1 << 20  # of Linux, and the most bytes that users may ask for
_LARGE_ENOUGH = 256  # sides of matrices whose product takes buffers
_WAITING = 32  # results a copy that may wait for an earlier one


def may_fork() -> bool:
    """Whether a copy of this process would run: nothing in it may hold a lock that the copy needs."""
    if sys.platform != "linux" or multiprocessing.current_process().daemon or torch.cuda.is_initialized():
        return False
    return not _FOREIGN & sys.modules.keys() and _is_alone()


def _is_alone() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    return all(map(_is_harmless, threading.enumerate()))


def _is_harmless(thread: threading.Thread) -> bool:
    does = getattr(thread, "_target", None)  # of a plain Thread; others say by their class what they do
    modules = (getattr(owner, "__module__", None) or "" for owner in (type(thread), does))
    return thread is threading.main_thread() or any(module.startswith(_HARMLESS) for module in modules)


@dataclass(frozen=True)
class _Answer:
    """Whether a task went well, its result or error, and what the copy that did it has taken so far.

    memory: bytes beside what the copy began with. largest: bytes of its largest task.
    """

    good: bool
    result: Any
    memory: int = 0
    largest: int = 0


@dataclass(frozen=True, eq=False)
class _Copy:
    """A copy of this process, the pipe to it and the one from it."""

    process: BaseProcess
    orders: Connection
    answers: Connection

    def answer(self) -> "_Answer | None":
        """What it says, or None where it was lost, or says what nobody understands."""
        try:
            return self.answers.recv()
        except Exception:  # unpickling may raise anything; the task is done again here, and its own error told
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
        latest = time.monotonic() + _PATIENCE  # for all: a lock that one waits for, others wait for too
        for copy in list(self._copies):
            if copy.answers.poll(max(latest - time.monotonic(), 0)) and copy.answer() is not None:
                self._idle.append(copy)
            else:
                self._lose(copy)
        self._turns = Turns(tasks, limit, _WAITING * max(len(self._copies), 1))

    def results(self, near_end: Callable[[], None]) -> Iterator[Any]:
        """The results in the tasks' order. near_end: called, maybe often, when all that is left may be begun."""
        done: dict[int, _Answer] = {}
        for k in range(len(self._tasks)):
            while k not in done:
                self._hand_out(near_end)
                done.update(self._answers() if self._busy else {k: self._do(k)})
            answer = done.pop(k)
            if not answer.good:
                raise answer.result
            self._turns.take(k)
            yield answer.result

    def _do(self, k: int) -> _Answer:
        """Where no copy does it."""
        self._turns.begin(k)
        answer = _run(self._tasks[k])
        self._turns.end(k, answer.memory, answer.largest)
        return answer

    def _hand_out(self, near_end: Callable[[], None]) -> None:
        """Give the copies that have nothing to do a task each, as far as the limit allows."""
        while self._idle and (k := self._turns.next()) is not None:
            copy = self._idle.pop()
            self._busy[copy.answers] = copy, k
            with contextlib.suppress(OSError):  # its end is met when it is waited for
                copy.orders.send(k)
            if self._turns.are_last():
                near_end()

    def _answers(self) -> dict[int, _Answer]:
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
            self._turns.end(k, answers[k].memory, answers[k].largest)
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


def _run(task: Task) -> _Answer:
    try:
        return _Answer(True, task.run())
    except Exception as error:
        return _Answer(False, error)


def _serve(tasks: Sequence[Task], orders: Connection, answers: Connection, unwanted: Sequence[Connection]) -> None:
    """The life of a copy. It ends without cleaning up: all that it could clean up is its parent's."""
    gc.freeze()  # what the parent has made is no garbage here, and to look at it copies the pages that it lies on
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(AttributeError, OSError):  # no work is gone on with for a parent that was killed
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for other in unwanted:
            other.close()
        _try_out()
        begun_with, largest = peak_rss_bytes(), 0
        answers.send(_Answer(True, None))
        while True:
            task = tasks[orders.recv()]
            answer, largest = _run(task), max(largest, task.nbytes)
            _send(answers, replace(answer, memory=peak_rss_bytes() - begun_with, largest=largest))
    finally:
        os._exit(0)


def _try_out() -> None:
    """Do what could hang before the parent counts on this copy: MKL takes buffers under locks for larger products."""
    some = torch.ones(_LARGE_ENOUGH, _LARGE_ENOUGH)
    some @ some


def _send(connection: Connection, answer: _Answer) -> None:
    result = answer.result
    if not answer.good:
        result.add_note("".join(traceback.format_exception(result)))  # where it happened is not pickled
    try:
        connection.send(answer)
    except (TypeError, ValueError, AttributeError) as error:  # what cannot be pickled
        reason = RuntimeError(f"{type(result).__name__} cannot leave its process: {error}")
        connection.send(replace(answer, good=False, result=reason))

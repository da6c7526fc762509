"""Copies of the process: the same results in the same order, few bytes begun, no copy that outlives its parent."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from rich.progress import Progress

from hmcompress import compress
from hmcompress.commands.encoding import encode_layer
from hmcompress.commands.reporting import Tally
from hmcompress.errors import SourceError
from hmcompress.settings.config import LayerRule
from hmcompress.work import forks, parallel
from hmcompress.work.forks import Forks, may_fork
from hmcompress.work.parallel import in_order
from hmcompress.work.tasks import Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux only")
ENOUGH = parallel._WORTH * 4


def results(tasks, count=2, limit=1 << 30):
    copies = Forks(tasks, count, limit)
    try:
        yield from copies.results(lambda: None)
    finally:
        copies.close()


def doubled(i, nbytes=1):
    return Task(nbytes, lambda: i, lambda x: 2 * x)


def pid():
    return Task(ENOUGH, lambda: time.sleep(0.05), lambda _: os.getpid())


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_tasks(count):
    def slow(i):
        time.sleep(0.002 * (5 - i % 5))
        return i

    assert list(results([Task(1, lambda i=i: i, slow) for i in range(40)], count)) == list(range(40))


def test_work_is_done_in_other_processes_side_by_side():
    pids = set(in_order([pid() for _ in range(4)], 2, apart=True))
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_threads_do_what_is_not_asked_to_be_apart_or_too_little():
    few = [Task(1, lambda: None, lambda _: os.getpid())] * 4
    assert set(in_order([pid() for _ in range(2)], 2)) == {os.getpid()}
    assert set(in_order(few, 2, apart=True)) == {os.getpid()}
    assert set(in_order([pid(), pid()], 1, apart=True)) == {os.getpid()}


def test_no_copy_is_left():
    copies = Forks([doubled(i) for i in range(9)], 3, 1 << 30)
    processes = [copy.process.pid for copy in copies._copies]
    assert all(map(alive, processes))
    assert list(copies.results(lambda: None)) == list(range(0, 18, 2))
    copies.close()
    assert not any(map(alive, processes))


def test_copies_that_work_end_with_the_iteration():
    tasks = [doubled(0), *[Task(1, lambda: None, lambda _: time.sleep(60))] * 3]
    start, iterator = time.monotonic(), results(tasks)
    assert next(iterator) == 0
    iterator.close()
    assert time.monotonic() - start < 30


def test_bytes_that_are_begun_are_limited(tmp_path):
    def begin(i):
        (tmp_path / str(i)).touch()

    iterator = results([Task(40, lambda i=i: begin(i), lambda _: None) for i in range(9)], 2, limit=100)
    for k in range(9):
        next(iterator)
        time.sleep(0.01)
        assert k + 1 <= len(list(tmp_path.iterdir())) <= k + 2


def test_both_ends_go_before_the_middle_once_all_that_is_left_may_be_begun(tmp_path):
    def begin(i):
        with open(tmp_path / "order", "a") as file:
            file.write(f"{i} ")

    tasks = [Task(10, lambda i=i: i, begin) for i in range(8)]
    list(results(tasks, 1, limit=50))
    assert (tmp_path / "order").read_text() == "0 1 2 7 3 6 4 5 "


def test_a_tensor_above_the_limit_goes_alone():
    assert list(results([doubled(i, 1000) for i in range(5)], 3, limit=10)) == [0, 2, 4, 6, 8]


def test_first_exception_ends_it_and_says_where_it_was_raised():
    def work(i):
        if i == 5:
            raise SourceError("five")
        return i

    done = []
    with pytest.raises(SourceError, match=r"^five") as caught:
        for result in results([Task(1, lambda i=i: i, work) for i in range(1000)]):
            done.append(result)
    assert done == [0, 1, 2, 3, 4]
    assert "in work" in caught.value.__notes__[0]


def test_a_lost_copy_s_task_is_done_by_the_parent():
    parent = os.getpid()

    def work(i):
        if i % 7 == 3 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    assert list(results([Task(1, lambda i=i: i, work) for i in range(30)], 3)) == list(range(30))


def test_a_copy_that_does_not_start_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(forks, "_PATIENCE", 0.1)
    monkeypatch.setattr(forks, "_serve", lambda *_: time.sleep(60))
    start = time.monotonic()
    assert list(results([doubled(i) for i in range(3)])) == [0, 2, 4]
    assert time.monotonic() - start < 30


def test_copies_that_do_not_start_are_waited_for_together(monkeypatch):
    monkeypatch.setattr(forks, "_PATIENCE", 1.0)
    monkeypatch.setattr(forks, "_serve", lambda *_: time.sleep(60))
    start = time.monotonic()
    assert list(results([doubled(i) for i in range(8)], 8)) == [2 * i for i in range(8)]
    assert time.monotonic() - start < 5


def test_a_system_without_room_for_processes_is_no_obstacle(monkeypatch):
    def full(*_):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(forks, "_fork", full)
    assert list(results([doubled(i) for i in range(3)])) == [0, 2, 4]


def test_what_cannot_be_sent_is_an_error_that_names_it():
    with pytest.raises(RuntimeError, match="function cannot leave its process"):
        list(results([Task(1, lambda: None, lambda _: lambda: None)]))


def test_the_caller_is_told_when_all_that_is_left_may_be_begun():
    told, copies = [], Forks([doubled(i) for i in range(6)], 2, 3)
    for k, _ in enumerate(copies.results(lambda: told.append(True))):
        assert not told or k >= 3
    copies.close()
    assert told


def test_copies_end_when_their_parent_is_killed(tmp_path):
    script = f"""
import os, time
from hmcompress.work.forks import Forks
from hmcompress.work.tasks import Task
def note(_):
    open({str(tmp_path)!r} + "/" + str(os.getpid()), "w").close()
    time.sleep(0.5)
copies = Forks([Task(1, lambda: None, note) for _ in range(100)], 2, 1 << 30)
list(copies.results(lambda: None))
"""
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        copies = [int(path.name) for path in tmp_path.iterdir()]
        assert len(copies) == 2
        assert all(map(alive, copies))
        parent.kill()
    deadline = time.monotonic() + 60
    while any(map(alive, copies)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, copies))


def test_nothing_is_forked_beside_foreign_threads_or_libraries_with_locks(monkeypatch):
    assert may_fork()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert not may_fork()
    stop.set()
    thread.join()
    found = []
    thread = threading.Thread(target=lambda: found.append(may_fork()))
    thread.start()
    thread.join()
    assert found == [False]
    monkeypatch.setitem(sys.modules, "jax", None)
    assert not may_fork()


def test_the_threads_of_a_notebook_are_no_obstacle(monkeypatch):
    stop = threading.Event()

    def watch():
        stop.wait()

    thread = threading.Thread(target=watch)
    thread.start()
    assert not may_fork()
    monkeypatch.setattr(watch, "__module__", "ipykernel.iostream")
    assert may_fork()
    stop.set()
    thread.join()


def test_nothing_is_forked_where_a_gpu_is_in_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert not may_fork()


def test_a_bar_that_is_drawn_beside_is_no_obstacle():
    with Progress(disable=False) as bar:
        bar.add_task("drawn", total=1)
        assert len(threading.enumerate()) > 1
        assert may_fork()


def test_a_layer_knows_the_memory_of_the_copy_that_coded_it():
    w, rule = torch.randn(64, 64), LayerRule(match="w", tol=0.1, norm="fro")

    def load(nbytes):
        torch.ones(nbytes, dtype=torch.uint8)
        return w

    small, large = (
        next(results([Task(ENOUGH, lambda n=n: load(n), lambda w: encode_layer("w", w, rule))])) for n in (1, 400 << 20)
    )
    assert large.peak_rss_bytes - small.peak_rss_bytes > 300 << 20
    tally = Tally()
    for part in (large, small):
        tally.add(part)
    assert tally.peak_rss_bytes == large.peak_rss_bytes


def test_a_file_is_the_same_whether_copies_made_it_or_not(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -2, 300)
    weights = {f"l{i}": torch.randn(300, 300, generator=generator) * scales for i in range(6)}
    torch.save(weights | {"steps": torch.arange(9)}, tmp_path / "model.pt")
    begun, fork = [], forks._fork
    monkeypatch.setattr(forks, "_fork", lambda *args: begun.append(True) or fork(*args))
    for jobs in (1, 2):
        compress(tmp_path / "model.pt", tmp_path / f"{jobs}.hmc.safetensors", tol=1e-2, jobs=jobs)
        assert len(begun) == (0 if jobs == 1 else 2)
    assert (tmp_path / "1.hmc.safetensors").read_bytes() == (tmp_path / "2.hmc.safetensors").read_bytes()

"""Several tensors at once, results in order, few bytes waiting."""

import os
import platform
import threading
import time

import numpy as np
import pytest
import torch

from hmcompress.work import parallel
from hmcompress.work.parallel import in_order
from hmcompress.work.tasks import Task


@pytest.fixture(autouse=True)
def threads_for_little(monkeypatch):
    monkeypatch.setattr(parallel, "_WORTH_A_THREAD", 1)


def test_quick_work_on_few_bytes_stays_in_this_thread(monkeypatch):
    monkeypatch.setattr(parallel, "_WORTH_A_THREAD", 10)
    for nbytes, alone in ((4, True), (5, False)):
        tasks = [Task(nbytes, lambda: time.sleep(0.01), lambda _: threading.current_thread()) for _ in range(4)]
        assert (set(in_order(tasks, 2)) == {threading.current_thread()}) == alone


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_results_come_in_the_order_of_the_tasks(jobs):
    def slow(i):
        time.sleep(0.002 * (5 - i % 5))
        return i

    assert list(in_order([Task(1, lambda i=i: i, slow) for i in range(40)], jobs)) == list(range(40))


def test_bytes_that_wait_are_limited(monkeypatch):
    monkeypatch.setattr(parallel, "IN_FLIGHT", 100)
    lock, held, most = threading.Lock(), 0, 0

    def load():
        nonlocal held, most
        with lock:
            held += 40
            most = max(most, held)

    for _ in in_order([Task(40, load, lambda _: time.sleep(0.001)) for _ in range(50)], 8):
        with lock:
            held -= 40
    assert 40 <= most <= 120


def test_a_tensor_above_the_limit_goes_alone(monkeypatch):
    monkeypatch.setattr(parallel, "IN_FLIGHT", 10)
    assert list(in_order([Task(1000, lambda i=i: i, lambda i: -i) for i in range(5)], 3)) == [0, -1, -2, -3, -4]


@pytest.mark.parametrize("jobs", [1, 3])
def test_first_exception_ends_it(jobs):
    def work(i):
        if i == 5:
            raise ValueError("five")
        return i

    done = []
    with pytest.raises(ValueError, match="five"):
        for result in in_order([Task(1, lambda i=i: i, work) for i in range(1000)], jobs):
            done.append(result)
    assert done == [0, 1, 2, 3, 4]


def test_threads_of_torch_are_as_before():
    before = torch.get_num_threads()
    iterator = in_order([Task(1, lambda: 1, lambda x: x)] * 5, 2)
    next(iterator)
    iterator.close()
    assert torch.get_num_threads() == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_the_memory_of_freed_arrays_is_kept_for_the_next():
    resource = pytest.importorskip("resource")
    list(in_order([]))
    np.ones(1 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.ones(1 << 20)  # 2048 pages
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2048


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="Linux tells its threads")
def test_threads_have_ended_for_the_system_too():
    """One that frees its buffers while the process is copied leaves the locks of MKL closed in the copy."""

    def work(_):
        torch.ones(256, 256) @ torch.ones(256, 256)
        return threading.get_native_id()

    for _ in range(100):
        threads = set(in_order([Task(1, lambda: None, work) for _ in range(4)], 4))
        assert not [thread for thread in threads if os.path.exists(f"/proc/self/task/{thread}")]

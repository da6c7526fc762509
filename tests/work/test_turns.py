"""Claims about which task is next: in order, within the memory that work takes, and from both ends at last."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hmcompress.work import turns
from hmcompress.work.tasks import Task
from hmcompress.work.turns import Turns

MB = 1_000_000


def tasks(*sizes):
    return [Task(nbytes, lambda: None, lambda _: None) for nbytes in sizes]


def begun(found):
    return list(iter(found.next, None))


def test_tasks_are_begun_in_order_as_far_as_results_may_wait():
    found = Turns(tasks(10, 10, 10, 10), 20, 9)
    assert begun(found) == [0, 1]
    found.end(1, 0, 0)
    assert begun(found) == []  # its result is not taken yet
    found.end(0, 0, 0)
    found.take(0)
    assert begun(found) == [2]


def test_so_many_results_wait_and_no_more():
    assert begun(Turns(tasks(*[1] * 9), 1 << 30, 3)) == [0, 1, 2]


def test_both_ends_go_first_where_all_may_be_begun():
    assert begun(Turns(tasks(1, 1, 1, 1, 1), 9, 9)) == [0, 4, 1, 3, 2]


def test_a_task_that_is_too_large_goes_alone():
    found = Turns(tasks(99, 1, 99), 10, 9)
    for k in range(3):
        assert begun(found) == [k]
        found.end(k, 0, 0)
        found.take(k)


def test_large_tasks_are_begun_as_far_as_the_memory_reaches_that_others_took():
    sizes = [20 * MB] * 8
    assert begun(Turns(tasks(*sizes), 1 << 30, 99)) == [0]  # nothing is known yet: the worst is expected
    for factor, together in ((20, 1), (5, 2), (3, 4), (0, 7)):
        found = Turns(tasks(*sizes), 1 << 30, 99)
        found.end(found.next(), factor * 20 * MB, 20 * MB)
        assert len(begun(found)) == together


def test_small_tasks_tell_nothing_of_large_ones():
    found = Turns(tasks(1000, 20 * MB, 20 * MB), 1 << 30, 99)
    found.end(found.next(), 50 * MB, 1000)
    assert len(begun(found)) == 1


@settings(derandomize=True, deadline=None, database=None)
@given(st.lists(st.integers(0, 50 * MB), max_size=12), st.integers(0, 60 * MB), st.integers(1, 5), st.randoms())
def test_every_task_is_begun_once_whatever_ends_first(sizes, limit, waiting, random):
    found, running, over, taken = Turns(tasks(*sizes), limit, waiting), [], set(), 0
    while taken < len(sizes):
        running += begun(found)
        assert running or taken in over
        room = turns._FACTOR * sum(sizes[k] for k in running)
        assert len(running) <= 1 or sum(sizes[k] > 0 for k in running) <= 1 or room <= found._room
        if running:
            k = running.pop(random.randrange(len(running)))
            found.end(k, 0, 0)
            assert k not in over
            over.add(k)
        while taken in over:
            found.take(taken)
            taken += 1
    assert found.are_over()

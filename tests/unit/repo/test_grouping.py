"""Group commit: who comes while others are served shares the next turn."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kachery_p2p.repo.grouping import GroupCommit
from tests.helpers.patience import PATIENCE, wait_until


class Work:
    """Records its turns, and holds each until it may end."""

    def __init__(self) -> None:
        self.turns: list[list[int]] = []
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.failures: list[BaseException | None] = []

    def __call__(self, items: list[int]) -> None:
        self.turns.append(items)
        self.began.release()
        assert self.may_end.acquire(timeout=PATIENCE)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure


def waiting(group: GroupCommit[int], count: int) -> None:
    """Until so many callers wait for the next turn."""
    wait_until(lambda: len(group._waiting) == count)


def test_who_comes_meanwhile_shares_the_next_turn() -> None:
    """The first caller is served at once and alone; all that come while it is served make one turn."""
    work = Work()
    group = GroupCommit(work, most=100)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(group.do, 0, 1)
        assert work.began.acquire(timeout=PATIENCE)
        others = []
        for number in range(1, 5):
            others.append(pool.submit(group.do, number, 1))
            waiting(group, number)
        work.may_end.release()
        first.result(PATIENCE)
        assert work.began.acquire(timeout=PATIENCE)
        assert not any(other.done() for other in others)
        work.may_end.release()
        for other in others:
            other.result(PATIENCE)
    assert work.turns == [[0], [1, 2, 3, 4]]


def test_a_turn_is_bounded() -> None:
    """A turn takes no more than it may; one that is larger than that by itself has a turn of its own."""
    work = Work()
    group = GroupCommit(work, most=10)
    work.may_end.release(10)
    group.do(0, 50)
    work.may_end = threading.Semaphore(0)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(group.do, 1, 1)]
        wait_until(lambda: work.turns[-1] == [1])
        for number, size in ((2, 6), (3, 4), (4, 1)):
            running.append(pool.submit(group.do, number, size))
            waiting(group, number - 1)
        work.may_end.release(10)
        for each in running:
            each.result(PATIENCE)
    assert work.turns == [[0], [1], [2, 3], [4]]


def test_an_error_reaches_each_of_its_turn_and_nobody_else() -> None:
    """Each gets an error of its own, and the next turn goes on."""
    work = Work()
    group = GroupCommit(work, most=100)
    work.failures = [None, ValueError("no room"), None]
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(group.do, 0, 1)
        assert work.began.acquire(timeout=PATIENCE)
        failing = [pool.submit(group.do, number, 1) for number in (1, 2)]
        waiting(group, 2)
        work.may_end.release(3)
        first.result(PATIENCE)
        errors = [each.exception(PATIENCE) for each in failing]
        assert [str(error) for error in errors] == ["no room", "no room"]
        assert errors[0] is not errors[1]
    group.do(3, 1)
    assert work.turns[-1] == [3]


def test_an_interrupt_is_for_the_one_that_leads() -> None:
    """When the thread that does the work is interrupted, the others of its turn are served in the next."""
    work = Work()
    group = GroupCommit(work, most=100)
    work.failures = [None, KeyboardInterrupt(), None]
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(group.do, 0, 1)
        assert work.began.acquire(timeout=PATIENCE)
        others = []
        for number in (1, 2, 3):
            others.append(pool.submit(group.do, number, 1))
            waiting(group, number)
        work.may_end.release(3)
        first.result(PATIENCE)
        with pytest.raises(KeyboardInterrupt):
            others[0].result(PATIENCE)
        others[1].result(PATIENCE)
        others[2].result(PATIENCE)
    assert work.turns == [[0], [1, 2, 3], [2, 3]]


def test_one_thread_after_the_other() -> None:
    """Many threads with many items each: everything is done once."""
    done: list[int] = []
    group: GroupCommit[int] = GroupCommit(done.extend, most=5)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: group.do(number, 1), range(2000)))
    assert sorted(done) == list(range(2000))

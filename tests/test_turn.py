"""Turns: one at a time, in the order in which they came, whoever is interrupted."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from milepost import turn
from milepost.turn import NOW, Turn, Turns

if TYPE_CHECKING:
    from collections.abc import Callable


class Shared(Turn):
    """One that whoever has the turn may do with its own."""

    shared = True


def _leave(turns: Turns, turn: Turn) -> None:
    if NOW in turns.held and turns.held[NOW] is turn:
        del turns.held[NOW]
    turn.given_up = True
    turns.wake_first()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_turn_that_nobody_has_is_had_at_once() -> None:
    """And again, once it was given back."""
    turns = Turns()
    for _ in range(3):
        turn = Turn()
        assert turns.take(turn, 0)
        assert turns.holder is turn
        _leave(turns, turn)
        assert turns.holder is None


def test_a_turn_that_nobody_has_or_waits_for_is_had_without_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """One queue and one word fewer for each append."""
    monkeypatch.delattr(Turn, "sleep")
    monkeypatch.delattr(Turn, "prepare_to_sleep")
    turns = Turns()
    for _ in range(3):
        turn = Turn()
        assert turns.take(turn, 10)
        _leave(turns, turn)


def test_who_waits_is_told_when_the_time_is_up_and_leaves_the_queue() -> None:
    """The holder keeps its turn."""
    turns, first, second = Turns(), Turn(), Turn()
    assert turns.take(first, 0)
    assert not turns.take(second, 0.01)
    assert (turns.holder, turns.waiting) == (first, 0)


def test_who_waits_sleeps_no_longer_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it would sleep before it looks again."""
    turns, first, slept, now = Turns(), Turn(), list[float](), [1000.0]

    def sleep(self: Turn, seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("milepost.turn.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Turn, "sleep", sleep)
    assert turns.take(first, 0)
    for seconds, expected in ((0.0, [0.0]), (0.02, [0.02]), (0.12, [0.05, 0.05, 0.02])):
        slept.clear()
        assert not turns.take(Turn(), seconds)
        assert slept[: len(expected)] == pytest.approx(expected)


def test_a_turn_that_was_given_up_for_its_thread_is_not_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it stands in the queue still, or whoever woke the first there has taken it out."""
    for is_out in (False, True):
        turns, first = Turns(), Turn()

        def given_up(self: Turn, seconds: float, turns: Turns = turns, is_out: bool = is_out) -> None:
            self.given_up = True
            if is_out:
                turns._queue.remove(self)

        monkeypatch.setattr(Turn, "sleep", given_up)
        assert turns.take(first, 0)
        assert not turns.take(Turn(), 10)
        assert (turns.holder, turns.waiting) == (first, 0)


@pytest.mark.parametrize("next_one", [None, Turn()])
def test_a_turn_that_is_over_by_itself_is_ended_by_whoever_finds_it_first(next_one: Turn | None) -> None:
    """Another thread has ended it meanwhile, and has the turn perhaps, which nobody takes from it."""
    turns = Turns()

    class Fork(Turn):
        @property
        def is_over(self) -> bool:
            turns.held.clear()
            if next_one is not None:
                turns.held[NOW] = next_one
            return True

    assert turns.take(Fork(), 0)
    assert turns.holder is next_one
    assert turns.held == ({} if next_one is None else {NOW: next_one})


def test_who_waits_looks_again_until_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it looks in vain."""
    monkeypatch.setattr(turn, "_LOOK_AGAIN_S", 0.001)
    turns, first, looks = Turns(), Turn(), list[float]()
    sleep = Turn.sleep

    def counted(self: Turn, seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 5:
            del turns.held[NOW]
        sleep(self, seconds)

    monkeypatch.setattr(Turn, "sleep", counted)
    assert turns.take(first, 0)
    assert turns.take(Turn(), 60)
    assert len(looks) == 5


def test_turns_are_had_in_the_order_in_which_they_were_asked_for() -> None:
    """Who comes while others wait waits behind them."""
    turns, first, order = Turns(), Turn(), list[int]()
    assert turns.take(first, 0)

    def wait(number: int) -> None:
        turn = Turn()
        assert turns.take(turn, 10)
        order.append(number)
        _leave(turns, turn)

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        _until(lambda: turns.waiting == len(threads))
    _leave(turns, first)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_shared_turns_are_taken_over_as_far_as_the_first_that_is_not() -> None:
    """And are done without a turn of their own."""
    turns, first = Turns(), Turn()
    assert turns.take(first, 0)
    had: list[tuple[int, bool]] = []
    kinds: list[type[Turn]] = [Shared, Shared, Turn, Shared]

    def wait(number: int) -> None:
        turn = kinds[number]()
        assert turns.take(turn, 10)
        had.append((number, turn.done))
        _leave(turns, turn)

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(wait, number)
            _until(lambda number=number: turns.waiting == number + 1)  # type: ignore[misc]
        taken = turns.take_over()
        assert [type(turn) for turn in taken] == [Shared, Shared]
        assert turns.waiting == 2
        turns.finish(taken)
        _leave(turns, first)
    assert sorted(had) == [(0, True), (1, True), (2, False), (3, False)]


def test_what_was_taken_over_and_not_done_waits_again_before_all_others() -> None:
    """As after an interrupt of the thread that had taken it."""
    turns, first = Turns(), Turn()
    assert turns.take(first, 0)
    order: list[int] = []

    def wait(number: int) -> None:
        turn = Shared()
        assert turns.take(turn, 10)
        assert not turn.done
        order.append(number)
        _leave(turns, turn)

    with ThreadPoolExecutor(3) as pool:
        for number in range(3):
            pool.submit(wait, number)
            _until(lambda number=number: turns.waiting == number + 1)  # type: ignore[misc]
        taken = turns.take_over()
        assert turns.waiting == 0
        turns.put_back(taken)
        _leave(turns, first)
    assert order == [0, 1, 2]


def test_what_is_taken_over_is_waited_for_beyond_its_time() -> None:
    """It is being done: who leaves now would not know what came of it."""
    turns, first, second = Turns(), Turn(), Shared()
    assert turns.take(first, 0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(turns.take, second, 0.05)
        _until(lambda: turns.waiting == 1)
        assert turns.take_over() == [second]
        time.sleep(0.2)
        assert not waiting.done()
        turns.finish([second])
        assert waiting.result() is True
    assert second.done


@pytest.mark.parametrize("ghosts", [1, 3])
def test_turns_that_nobody_waits_for_any_more_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch, ghosts: int) -> None:
    """As those of threads that an interrupt has ended."""
    monkeypatch.setattr(Turn, "sleep", lambda turn, _seconds: _assert_awake(turn))
    turns, first = Turns(), Turn()
    assert turns.take(first, 0)
    for _ in range(ghosts):
        ghost: Any = Shared()
        ghost.given_up = True
        turns._queue.append(ghost)
    _leave(turns, first)
    for _ in range(20):
        turn = Turn()
        assert turns.take(turn, 1)
        _leave(turns, turn)


def _assert_awake(turn: Turn) -> None:
    """Whoever sleeps now wakes at once."""
    assert turn._asleep is not None
    assert not turn._asleep.locked()


def _waiting(turns: Turns, *kinds: tuple[type[Turn], bool]) -> list[Turn]:
    """Turns that wait, by whether somebody else may do their work, and whether nobody waits for them any more."""
    for kind, given_up in kinds:
        turn = kind()
        turn.given_up = given_up
        turns._queue.append(turn)
    return list(turns._queue)


def test_turns_that_nobody_waits_for_are_not_taken_over_and_hide_none_that_are() -> None:
    """Whatever their kind, and wherever they stand."""
    turns = Turns()
    waiting = _waiting(turns, (Turn, True), (Shared, False), (Shared, True), (Shared, False), (Turn, False), (Turn, True))
    assert turns.take_over() == [waiting[1], waiting[3]]
    assert turns.waiting == 2


def test_what_was_taken_over_is_not_lost_when_the_next_one_leaves_the_queue_meanwhile() -> None:
    """Its time was up just then."""
    leaves = Shared()

    class Queue(deque[Turn]):
        def __getitem__(self, index: Any) -> Any:
            if super().__getitem__(index) is leaves:
                self.remove(leaves)
            return super().__getitem__(index)

    turns = Turns()
    waiting = _waiting(turns, (Shared, False))
    turns._queue = Queue([*waiting, leaves])
    assert turns.take_over() == waiting
    assert turns.waiting == 0


@pytest.mark.parametrize("last", [(Turn, True), (Shared, False), (Shared, True)])
def test_nothing_is_taken_over_past_one_that_is_not_shared(last: tuple[type[Turn], bool]) -> None:
    """Nor is that one itself."""
    turns = Turns()
    _waiting(turns, (Turn, False), (Shared, False), last)
    assert turns.take_over() == []
    assert turns.waiting == 3


def test_who_waits_keeps_its_place_though_one_behind_it_has_given_up() -> None:
    """Only those before it are taken out."""
    turns = Turns()
    waiting = _waiting(turns, (Turn, True), (Turn, False), (Turn, True))
    turns.wake_first()
    assert list(turns._queue) == waiting[1:]


def test_who_comes_when_a_turn_was_just_given_back_wakes_the_first_that_waits_and_goes_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the word of who gave it back was lost."""
    monkeypatch.setattr(turn, "_LOOK_AGAIN_S", 5)
    turns, first, waits, order, woken = Turns(), Turn(), Turn(), list[str](), list[Turn]()
    assert turns.take(first, 0)

    def wait() -> None:
        assert turns.take(waits, 10)
        order.append("first")
        _leave(turns, waits)

    wake = Turn.wake

    def noted(self: Turn) -> None:
        woken.append(self)
        wake(self)

    monkeypatch.setattr(Turn, "wake", noted)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        _until(lambda: turns.waiting == 1)
        del turns.held[NOW]
        comes = Turn()
        assert turns.take(comes, 10)
        order.append("second")
        _leave(turns, comes)
        waiting.result(10)
    assert order == ["first", "second"]
    assert woken[0] is waits


def test_those_whose_work_is_done_by_another_are_woken_one_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only as they look again, nor all at once; the first by the one that did it."""
    monkeypatch.setattr(turn, "_LOOK_AGAIN_S", 60)
    turns, first = Turns(), Turn()
    assert turns.take(first, 0)
    wake, woken, seen = Turn.wake, list[tuple[int, Turn]](), list[bool]()

    def noted(self: Turn) -> None:
        woken.append((threading.get_ident(), self))
        seen.append(self.done)
        wake(self)

    monkeypatch.setattr(Turn, "wake", noted)
    with ThreadPoolExecutor(4) as pool:
        waiting = []
        for number in range(4):
            waiting.append(pool.submit(lambda: turns.take(Shared(), 60)))
            _until(lambda number=number: turns.waiting == number + 1)  # type: ignore[misc]
        taken = turns.take_over()
        turns.finish(taken)
        assert [each.result(10) for each in waiting] == [True] * 4
    assert [each for _, each in woken] == taken
    assert [thread for thread, _ in woken] == [first.thread, *(each.thread for each in taken[:3])]
    assert seen == [True] * 4


def test_one_that_has_given_up_wakes_nobody_and_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt has ended its thread's wait."""
    monkeypatch.setattr(turn, "_LOOK_AGAIN_S", 60)
    turns, first, ghost = Turns(), Turn(), Shared()
    assert turns.take(first, 0)
    with ThreadPoolExecutor(2) as pool:
        waiting = []
        for number in range(2):
            waiting.append(pool.submit(turns.take, Shared(), 60))
            _until(lambda number=number: turns.waiting == number + 1)  # type: ignore[misc]
        one, other = turns.take_over()
        ghost.given_up = True
        turns.finish([ghost, one, ghost, other, ghost])
        assert [each.result(10) for each in waiting] == [True, True]


def test_who_is_done_as_it_takes_the_turn_wakes_the_next_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has looked just before, and finds the turn given back."""
    turns, one, other = Turns(), Shared(), Shared()
    first = Turn()
    assert turns.take(first, 0)
    other.prepare_to_sleep()

    def finish_and_leave(self: Turn, seconds: float) -> None:
        if not self.done:
            turns.take_over()
            one.wakes = other
            del turns.held[NOW]

    monkeypatch.setattr(Turn, "sleep", finish_and_leave)
    assert turns.take(one, 60)
    assert turns.holder is one
    _assert_awake(other)


def test_who_waits_for_others_sleeps_until_the_last_of_them_has_come() -> None:
    """However long its patience is."""
    turns, first = Turns(), Turn()
    assert turns.take(first, 0)
    with ThreadPoolExecutor(4) as pool:
        for each in range(3):
            pool.submit(turns.take, Turn(), 60)
            _until(lambda each=each: turns.waiting == each + 1)  # type: ignore[misc]
        waits = pool.submit(turns.wait_for_others, first, 4, 60)
        time.sleep(0.05)
        assert not waits.done()
        last = threading.Thread(target=turns.take, args=(Turn(), 60))
        last.start()
        waits.result(10)
        for still in list(turns._queue):
            still.given_up = True
            still.wake()
        last.join()


def test_who_waits_for_others_goes_on_when_none_has_come_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its patience begins anew with each that comes."""
    turns, first, slept = Turns(), Turn(), list[float]()
    assert turns.take(first, 0)
    came = [Turn(), Turn()]

    def sleep(self: Turn, seconds: float) -> None:
        assert self is first
        slept.append(seconds)
        if came:
            turns._queue.append(came.pop())

    monkeypatch.setattr(Turn, "sleep", sleep)
    turns.wait_for_others(first, 5, 0.25)
    assert slept == [0.25] * 3
    turns._queue.clear()


def test_without_patience_others_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps."""
    turns, first, slept = Turns(), Turn(), list[float]()
    assert turns.take(first, 0)
    monkeypatch.setattr("milepost.turn.time.sleep", slept.append)
    turns.wait_for_others(first, 5, 0)
    assert slept == [0]


def test_who_is_woken_twice_sleeps_no_more() -> None:
    """By the one that gives its turn back, and by the one that comes then; before it sleeps, it hears no word."""
    waits = Turn()
    waits.wake()
    waits.prepare_to_sleep()
    waits.wake()
    waits.wake()
    waits.sleep(60)


def test_a_word_that_was_lost_only_delays() -> None:
    """An interrupt may come before the first that waits is woken."""
    turns, first = Turns(), Turn()
    assert turns.take(first, 0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(turns.take, Turn(), 10)
        _until(lambda: turns.waiting == 1)
        del turns.held[NOW]
        assert waiting.result(5) is True


def test_many_threads_have_every_turn_once() -> None:
    """Whatever the interleaving: no two at a time."""
    turns, inside, total = Turns(), list[int](), 0

    def work(number: int) -> None:
        nonlocal total
        turn = Turn()
        assert turns.take(turn, 60)
        inside.append(number)
        assert len(inside) == 1
        total += 1
        inside.pop()
        _leave(turns, turn)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(2000)))
    assert total == 2000

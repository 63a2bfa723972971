"""What comes next is prepared while what came before is used; no thread outlives that."""

import threading
from contextlib import closing
from time import sleep

import pytest

from medmim.lvlm import ahead

THINGS = range(30)


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("medmim-ahead")}


def test_all_come_in_order_from_other_threads_and_only_a_few_ahead():
    begun, at = [], set()

    def prepare(thing, check):
        begun.append(thing)
        at.add(threading.current_thread())
        check()
        return 2 * thing

    most = 0
    for number, found in enumerate(ahead.prepared(THINGS, prepare)):
        most = max(most, len(begun) - number)
        assert found == 2 * number
    assert sorted(begun) == list(THINGS) and threading.main_thread() not in at
    assert most <= 2 + ahead.MOST_THREADS
    assert not threads()


def test_an_error_comes_in_the_place_of_its_thing_and_leaves_no_thread():
    def prepare(thing, check):
        if thing == 3:
            raise ValueError("torn")
        return thing

    found = []
    with pytest.raises(ValueError, match="torn"):
        found.extend(ahead.prepared(THINGS, prepare))
    assert found == [0, 1, 2] and not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, GeneratorExit])
def test_whoever_is_interrupted_waits_for_one_step_at_most(error):
    steps = []

    def prepare(thing, check):
        for step in range(1000):
            check()
            steps.append((thing, step))
            if thing:
                sleep(0.001)
        return thing

    with pytest.raises(error), closing(ahead.prepared(THINGS, prepare)) as made:  # noqa: PT012
        assert next(made) == 0
        while not any(thing for thing, _ in steps):
            sleep(0.001)
        raise error
    assert not threads()
    assert (1, 999) not in steps


def test_a_single_thing_needs_no_thread():
    assert list(ahead.prepared([1], lambda thing, _: (thing, threading.current_thread()))) == [
        (1, threading.current_thread())
    ]
    assert list(ahead.prepared([], lambda thing, _: thing)) == []

"""Each question gets its own reply, whoever asks beside it; what is cancelled is not asked; nothing hangs at an end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from medmim_inference.batching import Batcher
from medmim_inference.replica import Replica, Target

from medmim.bench.engines import Engine
from medmim.errors import UserError
from medmim.lvlm.ask import Question, Reply
from medmim.registry.chat import Refused

TARGET = Target("m", "m", "d" * 64)


class Model:
    """An engine that waits for `free` and remembers its batches.

    It fails for batches of more than `most`, and for a question `large`.
    """

    def __init__(self, most: int = 100) -> None:
        self.batches: list[tuple[list[str], int]] = []
        self.free, self.begun = threading.Event(), threading.Event()
        self.free.set()
        self.most = most
        self.replica = Replica(TARGET, Engine("m", "d", self.ask, self.ask))

    def ask(self, questions: Any, size: int, longest: int = 0) -> Any:
        self.begun.set()
        assert self.free.wait(30)
        if len(questions) > self.most or any(one.prompt == "large" for one in questions):
            raise UserError("the memory is used up")
        self.batches.append(([one.prompt for one in questions], longest))
        yield from (Reply(f"to {one.prompt}", "k") for one in questions)


def batcher(model: Model, **changes: Any) -> Batcher:
    return Batcher(**{"replica": lambda: model.replica, "size": 4, "threads": 1, "most": 1000, **changes})


@given(st.lists(st.tuples(st.text(), st.integers(1, 3)), max_size=30), st.integers(1, 5), st.integers(1, 3))
def test_every_question_gets_its_own_reply_in_batches_of_one_length(asked: Any, size: int, threads: int):
    model = Model()
    own = batcher(model, size=size, threads=threads)
    futures = [own.ask(Question(text), longest) for text, longest in asked]
    assert [future.result(30)[0].text for future in futures] == [f"to {text}" for text, _ in asked]
    own.end()
    assert sorted((text, longest) for batch, longest in model.batches for text in batch) == sorted(asked)
    assert all(len(batch) <= size for batch, _ in model.batches)


def test_what_waits_while_a_batch_is_asked_is_asked_together():
    model = Model()
    model.free.clear()
    own = batcher(model)
    first = own.ask(Question("first"), 1)
    assert model.begun.wait(30)
    rest = [own.ask(Question(str(n)), 1) for n in range(5)]
    model.free.set()
    assert [future.result(30)[0].text for future in [first, *rest]] == ["to first", *(f"to {n}" for n in range(5))]
    assert [batch for batch, _ in model.batches] == [["first"], ["0", "1", "2", "3"], ["4"]]
    own.end()


def test_a_question_whose_client_has_left_is_not_asked():
    model = Model()
    model.free.clear()
    own = batcher(model)
    own.ask(Question("first"), 1)
    assert model.begun.wait(30)
    gone, stays = own.ask(Question("gone"), 1), own.ask(Question("stays"), 1)
    assert gone.cancel()
    model.free.set()
    stays.result(30)
    own.end()
    assert [batch for batch, _ in model.batches] == [["first"], ["stays"]]


def test_too_many_are_sent_away_and_an_ending_server_answers_what_it_took():
    model = Model()
    model.free.clear()
    own = batcher(model, most=2)
    taken = [own.ask(Question("0"), 1)]
    assert model.begun.wait(30)
    taken += [own.ask(Question("1"), 1), own.ask(Question("2"), 1)]
    with pytest.raises(Refused) as caught:
        own.ask(Question("3"), 1)
    assert caught.value.status == 429 and caught.value.retry
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(own.end)
        model.free.set()
        ending.result(30)
    assert [future.result(0)[0].text for future in taken] == ["to 0", "to 1", "to 2"]
    with pytest.raises(Refused) as caught:
        own.ask(Question("4"), 1)
    assert caught.value.status == 503


def test_a_batch_that_fails_as_a_whole_is_asked_one_by_one():
    model = Model(most=1)
    model.free.clear()
    own = batcher(model)
    first = own.ask(Question("first"), 1)
    assert model.begun.wait(30)
    rest = [own.ask(Question(text), 1) for text in ("0", "large", "2")]
    model.free.set()
    assert [future.result(30)[0].text for future in (first, rest[0], rest[2])] == ["to first", "to 0", "to 2"]
    with pytest.raises(UserError, match="used up"):
        rest[1].result(30)
    own.end()


def test_a_fault_of_the_model_reaches_its_requests_and_ends_no_thread():
    model = Model(most=0)
    own = batcher(model)
    with pytest.raises(UserError, match="used up"):
        own.ask(Question("first"), 1).result(30)
    model.most = 1
    assert own.ask(Question("second"), 1).result(30)[0].text == "to second"
    own.end()


def test_a_model_is_free_when_its_last_batch_has_ended():
    model, other = Model(), Model()
    model.free.clear()
    current = [model.replica]
    own = batcher(model, replica=lambda: current[0], threads=2)
    own.ask(Question("first"), 1)
    assert model.begun.wait(30)
    current[0] = other.replica
    assert own.ask(Question("second"), 1).result(30)[1] is other.replica
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(own.wait_until_free, model.replica)
        assert not waiting.done()
        model.free.set()
        waiting.result(30)
    assert model.batches
    own.end()


def test_who_waits_for_a_model_to_be_free_takes_no_questions_turn(monkeypatch):
    real = Batcher._next
    # so that the one that asks waits behind the one that waits for the model
    monkeypatch.setattr(Batcher, "_next", lambda self: time.sleep(0.05) or real(self))
    busy, other = Model(), Model()
    busy.free.clear()
    current = [busy.replica]
    own = batcher(busy, replica=lambda: current[0], threads=2)
    first = own.ask(Question("first"), 1)
    assert busy.begun.wait(30)
    current[0] = other.replica
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(own.wait_until_free, busy.replica)
        try:
            for number in range(3):
                assert own.ask(Question(str(number)), 1).result(10)[0].text == f"to {number}"
                time.sleep(0.1)
        finally:
            busy.free.set()
        waiting.result(30)
    first.result(30)
    own.end()

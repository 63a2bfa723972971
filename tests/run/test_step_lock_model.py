"""A step's lock in a world of its own clock: whoever renews in time is alone, whoever dies, pauses or is slow."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.errors import Unavailable
from medmim.run import step_lock
from medmim.run.step_lock import STALE, Held
from medmim.store import Store

OPERATIONS = 2000  # of one example; more is a livelock

STEP = "data-0123"


class Killed(BaseException):
    """Ends the thread of an actor that nobody lets run any more."""


@dataclass
class Actor:
    """A process of the model: a thread that does one operation whenever the world lets it."""

    name: str
    body: Callable[["Actor"], None]
    world: "World"
    wakes: float = 0.0
    listed: int = 0  # the highest turn there was when it last listed
    done: int = 0  # operations
    dies: int = OPERATIONS
    ended: bool = False
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.wait()
            self.body(self)
        except Killed:
            pass
        except BaseException as error:
            self.world.errors.append(error)
        self.ended = True
        self.world.back.release()

    def wait(self) -> None:
        self.go.acquire()
        if self.world.over:
            raise Killed

    @property
    def lives(self) -> bool:
        return not self.ended and self.done < self.dies


class World:
    """A store and a clock; every operation is one step, and who takes the next one is drawn."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.now, self.over = 0.0, False
        self.back = threading.Semaphore(0)
        self.actors: list[Actor] = []
        self.inside: list[str] = []
        self.errors: list[BaseException] = []
        self.top = 0

    def run(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        """Let everybody go on until all have ended or died."""
        for _ in range(OPERATIONS):
            living = [actor for actor in self.actors if actor.lives]
            if not living:
                break
            ready = [actor for actor in living if actor.wakes <= self.now]
            if not ready:
                self.now = min(actor.wakes for actor in living)
                continue
            actor = draw(st.sampled_from(ready))
            actor.go.release()
            self.back.acquire()
            if self.errors:
                raise self.errors[0]
            self.inside = [name for name in self.inside if name in {one.name for one in self.actors if one.lives}]
        else:
            raise AssertionError("it does not end")

    def close(self) -> None:
        self.over = True
        for actor in self.actors:
            actor.go.release()
            actor.thread.join(10)

    # what an actor calls

    def actor(self) -> Actor:
        return next(actor for actor in self.actors if actor.thread is threading.current_thread())

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        actor = self.actor()
        actor.wakes = self.now + seconds
        self.step(lambda: None)

    def step(self, operation: Callable[[], Any]) -> Any:
        actor = self.actor()
        if self.over:
            raise Killed
        self.back.release()
        actor.wait()
        actor.done += 1
        self.now += 0.5
        return operation()

    # the store

    def list(self, prefix: str = "") -> Iterator[str]:
        def look() -> list[str]:
            self.actor().listed = self.top
            return sorted(key for key in self.objects if key.startswith(prefix))

        return iter(cast(list[str], self.step(look)))

    def read(self, key: str) -> bytes:
        def read() -> bytes:
            if key not in self.objects:
                raise FileNotFoundError(key)
            return self.objects[key]

        return cast(bytes, self.step(read))

    def write(self, key: str, data: bytes) -> None:
        self.step(lambda: self.objects.__setitem__(key, data))

    def create(self, key: str, data: bytes) -> bool:
        def create() -> bool:
            new = key not in self.objects
            self.top = max(self.top, int(key[-13:-5])) if new else self.top
            self.objects.setdefault(key, data)
            return new

        return cast(bool, self.step(create))

    def delete(self, key: str) -> None:
        self.step(lambda: self.objects.pop(key, None))


@contextmanager
def modelled() -> Iterator[World]:
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_lock, "time", world)
        patch.setattr(step_lock, "_renewed", lambda held: nullcontext())
        patch.setattr(step_lock, "say", lambda text: None)
        patch.setattr(step_lock, "_this_process", lambda: world.actor().name)
        dead = lambda name: name.startswith("here") and not next(a for a in world.actors if a.name == name).lives  # noqa: E731
        patch.setattr(step_lock, "_is_gone", dead)
        try:
            yield world
        finally:
            world.close()


def works(world: World, gaps: list[float], log: list[str]) -> Callable[[Actor], None]:
    """Take the lock, renew it after each gap, look whether it is held still, leave."""

    def body(actor: Actor) -> None:
        try:
            with step_lock.step_lock(cast(Store, world), STEP) as held:
                world.inside.append(actor.name)
                try:
                    for gap in gaps:
                        world.sleep(gap)
                        checked(actor, held.renew, held)
                    checked(actor, held.check, held)
                    log.append(f"{actor.name} made it")
                finally:
                    if not world.over:
                        world.inside.remove(actor.name)
        except Unavailable:
            log.append(f"{actor.name} lost it")

    def checked(actor: Actor, look: Callable[[], None], held: Held) -> None:
        look()
        assert actor.listed == held.turn.number, "it took itself for the holder after another one had begun"

    return body


MOST = STALE - 40  # s between two renewals of a process that is not paused: it and the one that waits also work


@settings(max_examples=30)
@given(data=st.data())
def test_whoever_renews_in_time_is_alone_and_keeps_it_whoever_dies(data: st.DataObject) -> None:
    log: list[str] = []
    with modelled() as world:
        for number in range(data.draw(st.integers(2, 4))):
            gaps = data.draw(st.lists(st.floats(0, MOST), max_size=4))
            name = f"{data.draw(st.sampled_from(['here', 'there']))} {number}"
            world.actors.append(Actor(name, works(world, gaps, log), world))
            if data.draw(st.booleans()):
                world.actors[-1].dies = data.draw(st.integers(0, 30))

        def draw(which: st.SearchStrategy[Any]) -> Any:
            assert len(world.inside) <= 1, world.inside
            if data.draw(st.integers(0, 99)) == 0:  # the store is away: nobody can renew, nobody can look
                world.now += 3 * STALE
            return data.draw(which)

        world.run(draw)
        survived = {actor.name for actor in world.actors if actor.lives or actor.ended}
    assert not [line for line in log if "lost" in line]
    assert {line.removesuffix(" made it") for line in log} >= {n for n in survived if dies_late(world, n)}


def dies_late(world: World, name: str) -> bool:
    return next(actor for actor in world.actors if actor.name == name).dies == OPERATIONS


@settings(max_examples=30)
@given(data=st.data())
def test_whoever_was_paused_for_too_long_knows_it_before_it_changes_anything(data: st.DataObject) -> None:
    log: list[str] = []
    with modelled() as world:
        for number in range(data.draw(st.integers(2, 4))):
            gaps = data.draw(st.lists(st.sampled_from([1.0, 50.0, 3 * STALE]), max_size=4))
            world.actors.append(Actor(f"there {number}", works(world, gaps, log), world))

        def draw(which: st.SearchStrategy[Any]) -> Any:
            actor = data.draw(which)
            if data.draw(st.integers(0, 19)) == 0:  # paused between any two operations
                actor.wakes = world.now + 3 * STALE
                others = [one for one in world.actors if one.lives and one.wakes <= world.now]
                return data.draw(st.sampled_from(others)) if others else actor
            return actor

        world.run(draw)
        assert [actor for actor in world.actors if not actor.ended] == []
    assert len(log) == len(world.actors) and [line for line in log if "made" in line]
    assert {json.loads(text)["ended"] for text in newest(world)} == {True}, "nobody is left to wait for"


def newest(world: World) -> list[bytes]:
    return [world.objects[max(world.objects)]]

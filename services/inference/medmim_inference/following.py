"""Which model is served: the one that the reference means at each moment; it changes without a failed request.

A new model is fetched, loaded and asked the canary while the present one answers. Only then do new batches go to it.
The one before stays loaded until another one comes, so that a rollback is a matter of seconds: there are two models in
memory, never three. A model that fails is not tried again until the reference means another one; where the registry or
the store is away, the present one goes on.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from medmim.errors import Unavailable, UserError
from medmim.progress import say
from medmim.run.workspace import Workspace
from medmim_inference import canary, replica
from medmim_inference.replica import Replica, Target


@dataclass(frozen=True)
class Rules:
    """How a model comes to be served.

    Attributes:
        by: What runs it: transformers or `vllm`.
        every: Seconds between two looks at the reference.
        questions: Of the canary; 0 asks none.
        agreement: Share of the canary's answers that must be those of the benchmark.
    """

    by: str = ""
    every: float = 10.0
    questions: int = 16
    agreement: float = 0.9


@dataclass
class Following:
    """The models of a server.

    Attributes:
        ref: The reference that is served.
        ws: The workspace.
        rules: How a model comes to be served.
        on_event: Called with a word for each event: `switched`, `refused`, `unreachable`.
        free: Called with a model before it is released: returns when nobody asks it.
        current: The model that answers.
        previous: The one before.
        refused: The model that the reference means and that is not served, and why.
    """

    ref: str
    ws: Workspace
    rules: Rules = field(default_factory=Rules)
    on_event: Callable[[str], None] = lambda _: None
    free: Callable[[Replica], None] = lambda _: None
    current: Replica | None = None
    previous: Replica | None = None
    refused: tuple[Target, str] | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Load the model that is meant now.

        Raises:
            UserError: There is none, it does not load, or its canary fails.
            Unavailable: The registry or the store does not answer.
        """
        self.current = self._proven(replica.find(self.ref, self.ws))
        say(f"serving {self.current.target.name}")

    def replica(self) -> Replica:
        """The model for the next batch."""
        assert self.current is not None  # noqa: S101  `start` came first
        return self.current

    def look(self) -> bool:
        """Look once at what the reference means, and go over to it; whether the model has changed."""
        try:
            target = replica.find(self.ref, self.ws)
        except UserError as error:  # away, or without this alias
            self._goes_on("unreachable", error.fact)
            return False
        if target.digest == self.replica().target.digest:
            self.refused = None
            return False
        if self.refused and self.refused[0].digest == target.digest:
            return False
        try:
            new = self._loaded_before(target) or self._proven(target)
        except Unavailable as error:
            self._goes_on("unreachable", error.fact)
            return False
        except UserError as error:
            self.refused = target, error.fact
            self._goes_on("refused", str(error))
            return False
        self.previous, self.current, self.refused = self.replica(), new, None
        self.on_event("switched")
        say(f"serving {new.target.name}; before: {self.previous.target.name}")
        return True

    def run(self) -> None:
        """Look every few seconds until `end`; for a thread."""
        while not self._ended.wait(self.rules.every):
            self.look()

    def end(self) -> None:
        """End `run`, and release the models."""
        self._ended.set()
        for one in (self.current, self.previous):
            if one is not None:
                one.engine.release()

    def _goes_on(self, event: str, why: str) -> None:
        self.on_event(event)
        say(f"{why}\n{self.replica().target.name} goes on")

    def _loaded_before(self, target: Target) -> Replica | None:
        """The model before, where that is meant again: it was proven, and is loaded."""
        known = self.previous
        return Replica(target, known.engine) if known and known.target.digest == target.digest else None

    def _proven(self, target: Target) -> Replica:
        if self.previous is not None:
            self.free(self.previous)
            self.previous.engine.release()
            self.previous = None
        loaded = replica.load(target, self.ws, self.rules.by)
        try:
            found = canary.ask(loaded, self.ws, self.rules.questions)
            if found.share < self.rules.agreement:
                raise UserError(
                    f"{target.name} is not served: its answers here are not those of its benchmark",
                    reason=f"{found.equal} of {found.asked} known answers are the same, and "
                    f"{self.rules.agreement:.0%} must be",
                    fix="bench it on this kind of machine and with these libraries, or lower --agreement",
                )
        except BaseException:
            loaded.engine.release()
            raise
        known = f"{found.equal} of {found.asked} known answers are the same" if found.asked else "no answer is known"
        say(f"canary of {target.name}: {known}")
        return loaded

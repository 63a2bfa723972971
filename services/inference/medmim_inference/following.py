"""Which model is served: the one that the reference means at each moment; it changes without a failed request.

A new model is fetched, loaded and asked the canary while the present one answers. Only then do new batches go to it.
The one before stays loaded until another one comes, so that a rollback is a matter of seconds: there are two models in
memory, never three. A model that fails, however it does, is not tried again until the reference means another one, or
it was benched again; where the registry or the store is away, the present one goes on.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from medmim.errors import Unavailable, UserError, as_user_error
from medmim.run.workspace import Workspace
from medmim_inference import canary, replica
from medmim_inference.replica import Replica, Target
from medmim_inference.rules import Rules

_log = logging.getLogger("medmim.inference")


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
        refused: What the reference means and is not served, until it means another model, or one benched again.
        trouble: What was last said to be wrong, and still is; empty where all is well.
    """

    ref: str
    ws: Workspace
    rules: Rules = field(default_factory=Rules)
    on_event: Callable[[str], None] = lambda _: None
    free: Callable[[Replica], None] = lambda _: None
    current: Replica | None = None
    previous: Replica | None = None
    refused: Target | None = None
    trouble: str = ""
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Load the model that is meant now.

        Raises:
            UserError: There is none, it does not load, or its canary fails.
            Unavailable: The registry or the store does not answer.
        """
        self.current = self._proven(replica.find(self.ref, self.ws))
        _log.info("serving %s", self.current.target.name)

    def replica(self) -> Replica:
        """The model for the next batch."""
        assert self.current is not None  # noqa: S101  `start` came first
        return self.current

    def look(self) -> bool:
        """Look once at what the reference means, and go over to it; whether the model has changed.

        It raises nothing: whatever a registry or a library fails with, the present model goes on.
        """
        try:
            target = replica.find(self.ref, self.ws)
        except BaseException as error:  # also a panic of a Rust library, which is no Exception
            self._goes_on("unreachable", error)  # away, or without this alias
            return False
        if target.digest == self.replica().target.digest:
            self.refused = None
        elif target != self.refused:
            return self._go_over(target)
        self.trouble = ""
        return False

    def run(self) -> None:
        """Look every few seconds until `end`, for a thread; not at all where no other model can come to be meant."""
        while replica.may_change(self.ref) and not self._ended.wait(self.rules.every):
            self.look()

    def end(self) -> None:
        """End `run`, and release the models."""
        self._ended.set()
        for one in (self.current, self.previous):
            if one is not None:
                one.engine.release()

    def _go_over(self, target: Target) -> bool:
        try:
            new = self._loaded_before(target) or self._proven(target)
        except BaseException as error:  # likewise
            told = as_user_error(error, f"loading {target.name}", self.ws.home)
            may_pass = isinstance(told, Unavailable) and not isinstance(error, MemoryError)
            if not may_pass:
                self.refused = target
            self._goes_on("unreachable" if may_pass else "refused", told)
            return False
        self.previous, self.current, self.refused, self.trouble = self.replica(), new, None, ""
        self.on_event("switched")
        _log.info("serving %s; before: %s", new.target.name, self.previous.target.name)
        return True

    def _goes_on(self, event: str, error: BaseException) -> None:
        """Count what went wrong, and say it, unless it was so at the last look, too."""
        self.on_event(event)
        if repr(error) != self.trouble:
            self.trouble = repr(error)
            told = as_user_error(error, f"looking up {self.ref}", self.ws.home)
            _log.warning("%s\n%s goes on", told, self.replica().target.name)

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
        _log.info("canary of %s: %s", target.name, known)
        return loaded

"""A model that is being served: found by a reference, loaded, warmed up, and asked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medmim import store
from medmim.bench.engines import OPENAI, Engine, engine
from medmim.errors import UserError
from medmim.lvlm.ask import Question, Reply
from medmim.registry import lookup
from medmim.run.workspace import Workspace
from medmim.terms import reasons

AT_ONCE = 64  # questions to a vLLM server, which batches them itself
_FEATURES = 32 << 20  # bytes of images' features that are kept between requests: those of one exam
_REGISTERED = "models:/"


@dataclass(frozen=True)
class Target:
    """What a reference means now.

    Attributes:
        ref: The reference that is served, such as `models:/NAME@champion`.
        uri: Of the model.
        digest: Of the registered model, hence of its artifact; of a folder or a shipped base, of its files.
        version: Of the registry; empty outside of it.
        bench: Digest of the scores that the version was registered with; empty without.
    """

    ref: str
    uri: str
    digest: str
    version: str = ""
    bench: str = ""

    @property
    def alias(self) -> str:
        """The name that stays the same while the model changes."""
        name = self.ref.removeprefix(_REGISTERED).rstrip("/")
        return name if self.ref.startswith(_REGISTERED) else name.rpartition("/")[2]

    @property
    def name(self) -> str:
        """The name of this very model."""
        return f"{self.alias}#{self.digest[:16]}"


def find(ref: str, ws: Workspace) -> Target:
    """What a reference means now.

    Raises:
        UserError: There is no such model, alias or version; or it is a server of somebody else.
        Unavailable: The registry or the store does not answer.
    """
    if ref.startswith(OPENAI):
        raise UserError(f"{ref} is a server already", fix="give a model: models:/NAME@champion, a folder, a URI")
    if not ref.startswith(_REGISTERED):
        uri = lookup.resolve(ref, ws)
        return Target(ref, uri, engine(uri, ws).digest)
    version = lookup.registered(ref, ws)
    tags = version.tags
    return Target(ref, tags[lookup.URI], tags[lookup.DIGEST], version.number, tags.get(lookup.BENCH, ""))


def may_change(ref: str) -> bool:
    """Whether a reference may come to mean another model: an alias. A folder would have to be hashed at each look."""
    return ref.startswith(_REGISTERED) and "@" in ref


@dataclass(frozen=True)
class Replica:
    """A loaded model.

    Attributes:
        target: What it is.
        engine: Answers its questions.
    """

    target: Target
    engine: Engine

    def ask(self, questions: Sequence[Question], new_tokens: int) -> Iterator[Reply]:
        """The replies to a batch. Raises as `Engine.ask`."""
        # of a server it is what all calls together may have under way
        return self.engine.ask(questions, AT_ONCE if self.engine.is_server else len(questions), new_tokens)


def load(target: Target, ws: Workspace, by: str) -> Replica:
    """Fetch a model, load it, and ask it a first question, which fills caches and compiles kernels.

    Args:
        target: The model.
        ws: The workspace: files are fetched once into its cache, whatever else of this machine asks for them.
        by: What runs it, as `bench.engine` names it.

    Raises:
        UserError: Its terms of use forbid serving; it is not the registered one; it does not load, or gives no answer.
        Unavailable: The store does not answer.
    """
    found = engine(target.uri, ws, by=by, room=_FEATURES)
    if target.version and store.get(target.uri).digest != target.digest:
        raise UserError(
            f"{target.uri} is not the model that was registered as version {target.version}",
            reason=f"the registered one is {target.digest}",
            fix="promote another version, or register this one again",
        )
    if forbidden := reasons(found.terms, ["serve"]):
        raise UserError(
            f"{target.name} must not answer users",
            reason="; ".join(forbidden),
            fix="train on data and from a base whose terms allow it; a folder of your own has its terms in terms.json "
            "(docs/terms.md)",
        )
    loaded = Replica(target, found)
    try:
        (reply,) = loaded.ask([Question("Is the model ready?\nA: yes\nB: no")], 4)
        if reply.error:
            raise UserError(f"{target.name} gives no answer", reason=reply.error)
    except BaseException:
        loaded.engine.release()
        raise
    return loaded

"""What a version was made of, and how it was judged: read by digest from this store, whatever tags and files say."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from typing import Any, Literal

from medmim import store
from medmim.errors import UserError
from medmim.registry import approval, gate, lookup
from medmim.registry.decisions import Decision
from medmim.registry.rules import RuleResult
from medmim.run.provenance import recorded
from medmim.run.workspace import Workspace
from medmim.tracking import Version

What = Literal["tuned model", "base", "data set", "recipe", "scores", "gate's decision"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEEPEST = 8  # bases that were tuned from bases
_NUMBER = (int, float, type(None))


@dataclass(frozen=True)
class Node:
    """Something that a version was made of.

    Attributes:
        what: Its part in it.
        name: As people call it; empty where it has none.
        digest: Empty where none is known.
        kind: First part of its address in the store; empty where it is no artifact that is there.
        note: What else is to be said.
        made_of: What it was made of.
    """

    what: What
    name: str = ""
    digest: str = ""
    kind: str = ""
    note: str = ""
    made_of: tuple["Node", ...] = ()


@dataclass(frozen=True)
class Judged:
    """What the gate said of a version.

    Attributes:
        digest: Of the decision's artifact.
        decision: `promoted`, `kept` or `refused`.
        rules: One result for each rule and group, in the order of the policy; empty for `kept`.
        reasons: A sentence for each.
        opponent: `champion` or `base`.
        against: Digest of the model it was compared with.
        bench: Digest of the scores.
        trouble: Why it cannot be read; empty where it can.
    """

    digest: str
    decision: str = ""
    rules: tuple[RuleResult, ...] = ()
    reasons: tuple[str, ...] = ()
    opponent: str = ""
    against: str = ""
    bench: str = ""
    trouble: str = ""


def tree(ws: Workspace, version: Version, judged: Judged | None) -> tuple[Node, ...]:
    """What a version was made of and judged by; empty for one that medmim did not register.

    Args:
        ws: The workspace.
        version: The version; the run's word for all but the model's own parents.
        judged: What the gate said of it.

    Raises:
        Unavailable: The store does not answer.
    """
    tags = version.tags
    if lookup.DIGEST not in tags:
        return ()
    recipe = Node("recipe", tags.get("medmim.recipe_name", ""), tags.get("medmim.recipe", ""))
    found = _model(ws, "tuned model", "", tags[lookup.DIGEST], {"data": tags.get("medmim.data", "")}, _DEEPEST)
    base = tags.get("medmim.base", "")
    parts = [replace(one, name=base) if one.what == "base" else one for one in found.made_of]
    if base and not any(one.what == "base" for one in parts):
        parts.append(Node("base", base, tags.get("medmim.base_digest", ""), "", "no artifact of this store"))
    shipped = {entry.name for entry in resources.files("medmim.shipped.bases").iterdir()}
    parts = [replace(one, note="shipped with medmim") if one.name in shipped else one for one in parts]
    nodes = [replace(found, made_of=(*parts, recipe))]
    bench = tags.get(lookup.BENCH) or (judged.bench if judged else "")
    if bench:
        nodes.append(_artifact(ws, "scores", "bench", bench))
    if judged:
        nodes.append(_artifact(ws, "gate's decision", "decision", judged.digest))
    return tuple(nodes)


def judged(ws: Workspace, version: Version, log: Sequence[Decision]) -> Judged | None:
    """What the gate said of a version: by the log, else by the tags of a candidate; None where it has said nothing.

    Args:
        ws: The workspace.
        version: The version.
        log: Of the production model.

    Raises:
        Unavailable: The store does not answer.
    """
    digest = version.tags.get(lookup.DIGEST, "")
    known = [entry.evidence for entry in log if entry.digest == digest and entry.evidence]
    named = known[-1] if known else version.tags.get(approval.EVIDENCE, "").rpartition("/")[2]
    if not named:
        return None
    if not _DIGEST.fullmatch(named):
        return Judged(named[:100], trouble="the version's tag names no decision")
    artifact = store.find(f"{ws.store}/decision/{named}")
    if artifact is None:
        return Judged(named, trouble="the decision is not in this store")
    try:
        document = gate.read(ws, artifact.uri)
        return _judged(named, document, digest)
    except (UserError, FileNotFoundError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError) and error.exit_code != 2:
            raise
        return Judged(named, trouble=error.fact if isinstance(error, UserError) else "it is not a decision of the gate")


def _judged(digest: str, document: Mapping[str, Any], model: str) -> Judged:
    rules = tuple(_rule(rule) for rule in document["rules"])
    told = [document["decision"], document["opponent"]["role"], document["opponent"]["digest"], document["bench"]]
    if not all(isinstance(text, str) for text in (*told, *document["reasons"])):
        raise TypeError
    if document["candidate"] != model:
        return Judged(digest, trouble=f"the decision is about another model: {str(document['candidate'])[:12]}")
    return Judged(digest, told[0], rules, tuple(document["reasons"]), told[1], told[2], told[3])


def _rule(found: Mapping[str, Any]) -> RuleResult:
    """A rule of a file that whoever publishes could have written."""
    rule = RuleResult(**{field.name: found[field.name] for field in fields(RuleResult)})
    texts = all(isinstance(text, str) for text in (rule.rule, rule.group, rule.text))
    if not texts or not isinstance(rule.value, _NUMBER) or not isinstance(rule.limit, _NUMBER):
        raise TypeError
    if rule.passed not in (True, False, None):
        raise TypeError
    return rule


def _model(ws: Workspace, what: What, name: str, digest: str, told: Mapping[str, str], deeper: int) -> Node:
    """A model with its parents: by its provenance, else as they are told."""
    found = _artifact(ws, what, "model", digest)
    parents, doubt = dict(told), ""
    if found.kind:
        record, doubt = recorded(store.get(f"{ws.store}/model/{digest}"))
        known = record.get("parents")
        parents |= {k: v for k, v in known.items() if isinstance(v, str)} if isinstance(known, dict) else {}
        if record.get("step") == "import":
            return Node(what, name, digest, "model", "brought in from outside")
    made_of = []
    if parents.get("data"):
        made_of.append(_artifact(ws, "data set", "data", parents["data"]))
    if parents.get("base") and deeper:
        made_of.append(_model(ws, "base", "", parents["base"], {}, deeper - 1))
    return Node(what, name, found.digest, found.kind, found.note or doubt, tuple(made_of))


def _artifact(ws: Workspace, what: What, kind: str, digest: str) -> Node:
    if not _DIGEST.fullmatch(digest):
        return Node(what, "", digest[:100], "", "this is no digest")
    try:
        there = store.find(f"{ws.store}/{kind}/{digest}") is not None
    except UserError as error:
        if error.exit_code != 2:
            raise
        return Node(what, "", digest, "", error.fact)
    return Node(what, "", digest, kind if there else "", "" if there else "no artifact of this store")

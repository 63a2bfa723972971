"""A reply as an Answer: the option that it chooses, or that it could not be read; a stored one is read again."""

import sys
from functools import lru_cache
from importlib import resources

from medmim.bench.reader.extract import extract
from medmim.sample import Answer, Sample, digest_of


def read(sample: Sample, probe: str, key: str, text: str, error: str | None, cut: bool = False) -> Answer:
    """A reply as an Answer: `parsed`, `unparsed` (counts as wrong, and is counted) or `error` (in no score)."""
    if error:
        return Answer(sample.id, probe, key, "", None, "error", error)
    if not sample.options:
        return Answer(sample.id, probe, key, text, None, "parsed" if text.strip() else "unparsed", cut=cut)
    choice = extract(text, sample.options, len(sample.images), sample.question, cut)
    return Answer(sample.id, probe, key, text, choice, "unparsed" if choice is None else "parsed", cut=cut)


def reread(sample: Sample, answer: Answer) -> Answer:
    """A stored answer as this version reads its text, so that no two readers are compared instead of two models."""
    if answer.status == "error" or answer.letters:
        return answer
    return read(sample, answer.probe, answer.key, answer.text, None, answer.cut)


@lru_cache(maxsize=1)
def reader() -> str:
    """Digest of the code that reads a text; what was read by equal code is not read again.

    It covers all of this package, so that no rule can be forgotten, and Python, whose Unicode tables the rules use.
    """
    files = [*resources.files("medmim.bench.reader").iterdir(), resources.files("medmim") / "sample.py"]
    code = sorted((file.name, file.read_text("utf-8")) for file in files if file.name.endswith(".py"))
    return digest_of([*(part for pair in code for part in pair), *map(str, sys.version_info[:3])])

"""What goes along with an export to lmms-eval, as its utils.py: questions, and scores as medmim gives them.

The file is copied into the export and needs nothing of medmim there: `reader/` beside it is medmim's own reader of
answers, copied likewise. Where scores may differ from medmim's all the same stands in the export's README.md.
"""

import importlib.util
import io
import re
import string
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# What lmms-eval gives for an answer where a request failed; its text is no answer of the model.
_FAILED = ("[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED")


def visual(doc: Mapping[str, Any]) -> list[Any]:
    """The images of a question, in their order (`doc_to_visual`)."""
    from PIL import Image

    return [Image.open(io.BytesIO(data)).convert("RGB") for data in doc["images"]]


def text(doc: Mapping[str, Any], kwargs: Any = None) -> str:
    """The question with its options (`doc_to_text`)."""
    return str(doc["prompt"])


def messages(doc: Mapping[str, Any], kwargs: Any = None) -> list[dict[str, Any]]:
    """All images, then the question (`doc_to_messages`)."""
    images = [{"type": "image", "url": image} for image in visual(doc)]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text(doc)}]}]


def results(doc: Mapping[str, Any], said: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The score of an answer, and the patients that it is clustered by (`process_results`).

    Nothing where the request failed: that is no answer of the model, and in no score.
    """
    answer = str(said[0])
    if answer.startswith(_FAILED):
        return {}
    if not doc["options"]:
        return {"token_f1": {"score": _token_f1(answer, doc["answer"]), "patient": doc["patient"]}}
    choice = _extract()(answer, doc["options"], len(doc["images"]), doc["question"])
    return {"accuracy": {"score": float(choice in doc["gold"]), "patient": doc["patient"]}}


def mean(items: Sequence[Mapping[str, Any]]) -> float:
    """The mean score (`aggregation`)."""
    return float(sum(item["score"] for item in items) / len(items))


def _extract() -> Callable[..., int | None]:
    """The reader of answers, from `reader/` beside this file."""
    folder = Path(__file__).resolve().parent / "reader"
    name = f"medmim_reader_{zlib.crc32(str(folder).encode())}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{folder} is missing: export the benchmark again")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    found: Callable[..., int | None] = importlib.import_module(f"{name}.extract").extract
    return found


def _token_f1(said: str, gold: str) -> float:
    """F1 of the bags of words, normalised as SQuAD does (Rajpurkar et al. 2016)."""
    ours, theirs = _words(said), _words(gold)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs)) if same else float(ours == theirs)


def _words(said: str) -> list[str]:
    said = said.casefold().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", said).split()

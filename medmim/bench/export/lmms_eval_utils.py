"""What goes along with an export to lmms-eval, as its utils.py: questions, and scores as medmim gives them.

The file is copied into the export and needs nothing of medmim there: `reader/` beside it is medmim's own reader of
answers, copied likewise. Where scores may differ from medmim's all the same stands in the export's README.md.
"""

import importlib.util
import io
import sys
import zlib
from collections.abc import Mapping, Sequence
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
        score = _reader("token_f1").token_f1(answer, doc["answer"])
        return {"token_f1": {"score": score, "patient": doc["patient"]}}
    choice = _reader("extract").extract(answer, doc["options"], len(doc["images"]), doc["question"])
    return {"accuracy": {"score": float(choice in doc["gold"]), "patient": doc["patient"]}}


def mean(items: Sequence[Mapping[str, Any]]) -> float:
    """The mean score (`aggregation`)."""
    return float(sum(item["score"] for item in items) / len(items))


def _reader(module: str) -> Any:
    """A module of `reader/` beside this file."""
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
    return importlib.import_module(f"{name}.{module}")

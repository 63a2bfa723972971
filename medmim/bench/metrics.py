"""Metrics of one answer: accuracy for closed questions; token F1, BLEU and ROUGE-L for open ones. All 0..1."""

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from medmim.bench import likelihood
from medmim.bench.token_f1 import token_f1
from medmim.errors import require
from medmim.sample import Answer, Sample

CLOSED = ("accuracy", *likelihood.METRICS)
BOTH_WAYS = {"accuracy": "swap_consistency", likelihood.LIKELIHOOD: "likelihood_swap_consistency"}
IF_READ = "accuracy_if_read"  # a metric of differences
OPEN = ("token_f1", "bleu", "rouge_l")


def score(sample: Sample, answer: Answer) -> dict[str, float]:
    """Metric -> value of one answer; empty where the engine failed.

    A closed question whose gold text is under two letters accepts either. Under `swap`, the right answer is that for
    the moved images.
    """
    if answer.status == "error":
        return {}
    if answer.letters:
        return likelihood.score(sample, answer)
    if sample.options:
        return {"accuracy": float(answer.choice in (sample.swapped if answer.probe == "swap" else sample.gold))}
    return dict(zip(OPEN, _of_open(answer.text, sample.answer), strict=True))


@lru_cache(maxsize=65_536)  # models and probes often give a question the same short answer
def _of_open(text: str, gold: str) -> tuple[float, float, float]:
    return token_f1(text, gold), bleu(text, gold), rouge_l(text, gold)


def right(scores: Mapping[str, float]) -> bool | None:
    """Whether a closed question was answered right; None for open ones, which are right by degrees, and errors."""
    found = scores.get("accuracy", scores.get("likelihood"))
    return None if found is None else found == 1


def if_read(scores: Mapping[str, float], status: str) -> Mapping[str, float]:
    """The scores of an answer with `accuracy_if_read`: its accuracy where it could be read, else absent."""
    known = "accuracy" in scores and status == "parsed"
    return {**scores, IF_READ: scores["accuracy"]} if known else scores


def both_ways(scores: Mapping[str, float], swapped: Mapping[str, float]) -> dict[str, float]:
    """Whether a question was answered right both with its images as they are and with them moved on.

    Args:
        scores: From `score`, with the images as they are.
        swapped: From `score`, under `swap`; empty where that was not asked.

    Returns:
        `swap_consistency`, 1 or 0, and the same by likelihoods; neither unless both were asked and answered.
    """
    return {name: scores[of] * swapped[of] for of, name in BOTH_WAYS.items() if of in scores and of in swapped}


def bleu(text: str, gold: str) -> float:
    """Sentence BLEU-4 with exponential smoothing and effective order (Post 2018)."""
    return float(_bleu().sentence_score(text, [gold]).score) / 100


def rouge_l(text: str, gold: str) -> float:
    """F measure of the longest common subsequence, stemmed (Lin 2004)."""
    return float(_rouge().score(gold, text)["rougeL"].fmeasure)


@lru_cache(maxsize=1)
def _bleu() -> Any:
    return require("sacrebleu.metrics", "bench").BLEU(effective_order=True)


@lru_cache(maxsize=1)
def _rouge() -> Any:
    scorer = require("rouge_score.rouge_scorer", "bench")
    logging.getLogger("absl").setLevel(logging.WARNING)  # it announces its tokenizer
    return scorer.RougeScorer(["rougeL"], use_stemmer=True)

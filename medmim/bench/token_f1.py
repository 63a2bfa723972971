"""Token F1 of an answer to an open question; needs the standard library only, as it goes along with an export."""

import re
import string
from collections import Counter


def token_f1(text: str, gold: str) -> float:
    """F1 of the bags of words, normalised as SQuAD does (Rajpurkar et al. 2016)."""
    said, meant = _words(text), _words(gold)
    same = sum((Counter(said) & Counter(meant)).values())
    return 2 * same / (len(said) + len(meant)) if same else float(said == meant)


def _words(text: str) -> list[str]:
    text = text.casefold().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()

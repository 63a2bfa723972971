"""The protocol `likelihood`: options are compared by the likelihoods that a model gives them; no text has to be read.

Three metrics of closed questions, as lm-evaluation-harness has `acc` and `acc_norm`:

* `likelihood`, the headline: the likeliest letter, as in its MMLU;
* `likelihood_text`: the likeliest text of an option, as the whole answer (`acc`);
* `likelihood_norm`: the same for each token of the text, so that longer options are not at a disadvantage (`acc_norm`,
  which counts characters).

Of several options that are equally likely, each counts as chosen in part, as in validation.
"""

from collections.abc import Sequence
from dataclasses import replace

from medmim.lvlm.ask import Reply
from medmim.lvlm.encode import right_share
from medmim.sample import Answer, Sample

LIKELIHOOD = "likelihood"
METRICS = (LIKELIHOOD, "likelihood_text", "likelihood_norm")
GENERATE = "generate"
PROTOCOLS = {GENERATE: (GENERATE,), LIKELIHOOD: (LIKELIHOOD,), "both": (GENERATE, LIKELIHOOD)}


def read(sample: Sample, probe: str, reply: Reply) -> Answer:
    """A reply as an Answer: its choice is the option with the likeliest letter."""
    if reply.error:
        return Answer(sample.id, probe, reply.key, "", None, "error", reply.error)
    choice = max(range(len(reply.letters)), key=lambda i: reply.letters[i])
    answer = Answer(sample.id, probe, reply.key, "", choice, "parsed")
    return replace(answer, letters=reply.letters, texts=reply.texts, tokens=reply.tokens)


def score(sample: Sample, answer: Answer) -> dict[str, float]:
    """Metric -> value of one answer; empty where the engine failed, and without texts where it gives none."""
    if answer.status == "error":
        return {}
    gold = sample.swapped if answer.probe == "swap" else sample.gold
    right = [i in gold for i in range(len(sample.options))]
    each = [total / count for total, count in zip(answer.texts, answer.tokens, strict=True)]
    compared: tuple[Sequence[float], ...] = (answer.letters, answer.texts, each)
    return {name: right_share(own, right) for name, own in zip(METRICS, compared, strict=True) if own}

"""Scores of a benchmark: a row for each model, group and metric, and paired differences between models."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from medmim import stats
from medmim.bench import likelihood, metrics, reading, tasks
from medmim.sample import Answer, Sample, Score, to_json

Answers = Mapping[str, Mapping[str, Sequence[Answer]]]  # role -> probe -> answers; `swap` has fewer than samples
Given = Sequence[Answer | None]  # in the order of the samples
Values = dict[str, list[dict[str, float]]]  # probe -> metric -> value of each sample
Columns = Mapping[str, stats.Floats]  # metric -> value of each item, NaN where it has none
COMPARED = (*metrics.CLOSED, metrics.IF_READ, *metrics.BOTH_WAYS.values(), *metrics.OPEN)  # metrics of differences
_ABOVE = 0.05  # blind accuracy surely this far above chance: the text reveals the answers


class Board:
    """The scores of every model on every item; means, intervals and differences over groups of items."""

    def __init__(
        self,
        samples: Sequence[Sample],
        answers: Answers,
        compared: Answers | None = None,
        groups: Sequence[Sequence[str]] = (),
        clusters: Sequence[Sequence[str]] = (),
    ) -> None:
        """Score answers.

        Args:
            samples: The items.
            answers: Generated ones; none where only likelihoods were compared.
            compared: Likelihoods.
            groups: Of each item, as `tasks.Items` has them. [default: those of every task]
            clusters: Likewise. [default: patients]
        """
        self.samples = samples
        names = [sample.id for sample in samples]  # a digest each: computed once, not for every model and probe
        self.answers = _all_aligned(samples, names, answers)
        self.compared = _all_aligned(samples, names, compared or {})
        self.roles = list(dict.fromkeys([*self.answers, *self.compared]))
        self.values = {
            role: _values(samples, self.answers.get(role, {}), self.compared.get(role, {})) for role in self.roles
        }
        self.people = [tuple(own) for own in clusters] or [tasks.patient_keys(sample) for sample in samples]
        self.groups_of = [tuple(own) for own in groups] or [tasks.groups(sample) for sample in samples]
        self.groups = grouped(self.groups_of)
        self.clusters = stats.Clusters.of(self.people)

    def leaderboard(self) -> list[dict[str, Any]]:
        """Rows of `model` + Score, groups in a fixed order within each model; `grey` where it was asked."""
        return [
            row
            for role in self.roles
            for group in sorted(self.groups, key=_order)
            for metric in (*metrics.CLOSED, *metrics.OPEN)
            if (row := self._row(role, group, metric)) is not None
        ]

    def differences(self, role: str) -> list[dict[str, Any]]:
        """Paired differences of `role` minus every other model, see `paired`; `p_holm` is corrected over them all."""
        rows = []
        ours = columns(self._if_read(role))
        for opponent in self.roles:
            if opponent != role:
                found = paired(self.groups, ours, columns(self._if_read(opponent)), self.clusters)
                rows += [{**row, "opponent": opponent} for row in found]
        return _corrected(rows)

    def text_only(self) -> list[dict[str, Any]]:
        """Blind accuracy against chance; `above` marks groups in which the text alone reveals the answers.

        Where nothing was generated, it is that of the likeliest letter.
        """
        metric = "accuracy" if self.answers else likelihood.LIKELIHOOD
        rows = []
        for role, values in self.values.items():
            for group in sorted(self.groups, key=_order) if "blind" in values else ():
                own = [i for i in self.groups[group].tolist() if metric in values["blind"][i]]
                if own:
                    found = self._estimate(values["blind"], own, metric)
                    chance = _chance([self.samples[i] for i in own])
                    above = found.low is not None and found.low > chance + _ABOVE
                    row = {"model": role, "group": group, "blind": found.value, "low": found.low, "high": found.high}
                    rows.append({**row, "chance": chance, "above": above})
        return rows

    def reading(self) -> list[dict[str, Any]]:
        """How the answers of each model could be read; see `reading.summary`."""
        return [
            {"model": role, **reading.summary(self.samples, by_probe["none"])}
            for role, by_probe in self.answers.items()
        ]

    def predictions(self) -> list[dict[str, Any]]:
        """Every item with the answers of every model."""
        return [
            {
                **to_json(sample),
                "id": sample.id,
                "people": self.people[i],
                "groups": self.groups_of[i],
                "answers": {
                    role: {
                        probe: shown
                        for probe in self.values[role]
                        if (shown := _shown(self._answer(role, probe, i), self._likelihoods(role, probe, i)))
                        if (shown := shown | {"scores": self.values[role][probe][i]})
                    }
                    for role in self.roles
                },
            }
            for i, sample in enumerate(self.samples)
        ]

    def _if_read(self, role: str) -> list[Mapping[str, float]]:
        """The values of every item, without probes."""
        scores = self.values[role]["none"]
        given = (self._answer(role, "none", i) for i in range(len(scores)))
        return [
            metrics.if_read(own, answer.status if answer else "") for own, answer in zip(scores, given, strict=True)
        ]

    def _answer(self, role: str, probe: str, item: int) -> Answer | None:
        return self.answers[role][probe][item] if role in self.answers else None

    def _likelihoods(self, role: str, probe: str, item: int) -> Answer | None:
        return self.compared[role][probe][item] if role in self.compared else None

    def _row(self, role: str, group: str, metric: str) -> dict[str, Any] | None:
        closed = metric in metrics.CLOSED
        asked = [i for i in self.groups[group].tolist() if bool(self.samples[i].options) == closed]
        values = self.values[role]
        scored = [i for i in asked if metric in values["none"][i]]
        if not scored:
            return None
        found = self._estimate(values["none"], scored, metric)
        given = (self.compared if metric in likelihood.METRICS else self.answers)[role]["none"]
        statuses = [answer.status for i in asked if (answer := given[i])]
        without = {p: [i for i in scored if metric in values[p][i]] for p in values if p in ("blind", "grey")}
        means = {probe: float(np.mean(_column(values[probe], own, metric))) for probe, own in without.items() if own}
        score = Score(
            group=group,
            metric=metric,
            value=found.value,
            low=found.low,
            high=found.high,
            blind=means.get("blind"),
            chance=_chance([self.samples[i] for i in scored]) if closed else None,
            n=found.n,
            patients=found.patients,
            unparsed=statuses.count("unparsed"),
            errors=statuses.count("error"),
            cut=sum(answer.cut for i in asked if (answer := given[i])),
            unparsed_cut=sum(answer.cut for i in asked if (answer := given[i]) and answer.status == "unparsed"),
            **(self._both_ways(values, scored, metric) if metric in metrics.BOTH_WAYS and "swap" in values else {}),
        )
        grey = {"grey": means["grey"]} if "grey" in means else {}
        return {"model": role, **to_json(score), **grey, **self._gap(values, scored, metric)}

    def _gap(self, values: Values, scored: Sequence[int], metric: str) -> dict[str, Any]:
        """With images minus without, on the items that were answered both ways; empty where blind was not asked."""
        own = [i for i in scored if metric in values["blind"][i]] if "blind" in values else []
        if not own:
            return {}
        seen, blind = (_column(values[probe], own, metric) for probe in ("none", "blind"))
        found = stats.difference(seen, blind, self.clusters.take(np.array(own)))
        return {"gap": found.value, "gap_low": found.low, "gap_high": found.high, "gap_patients": found.patients}

    def _both_ways(self, values: Values, scored: Sequence[int], metric: str) -> dict[str, Any]:
        """The fields of Score on the probe `swap`."""
        name = metrics.BOTH_WAYS[metric]
        own = [i for i in scored if name in values["none"][i]]
        if not own:
            return {"swap_n": 0, "swap_patients": 0}
        found = self._estimate(values["none"], own, name)
        ends = {"swap_low": found.low, "swap_high": found.high}
        return {"swap": found.value, **ends, "swap_n": found.n, "swap_patients": found.patients}

    def _estimate(self, values: Sequence[Mapping[str, float]], own: Sequence[int], metric: str) -> stats.Estimate:
        return stats.estimate(_column(values, own, metric), self.clusters.take(np.array(own)))


def paired(
    groups: Mapping[str, stats.Ints],
    ours: Columns,
    theirs: Columns,
    clusters: stats.Clusters,
    only: Collection[str] = COMPARED,
) -> list[dict[str, Any]]:
    """Paired differences over groups of the same items.

    Args:
        groups: Group -> indices of its items.
        ours: From `columns`; an item on which either engine failed is left out.
        theirs: Likewise.
        clusters: Patients of each item.
        only: The metrics, of COMPARED.

    Returns:
        Rows of group, metric and `stats.Estimate`; `p_holm` is corrected over all rows of a metric. Those of closed
        questions with generated answers have `unread` and `opponent_unread`, the shares of the items of the row whose
        answers could not be read; the metric `accuracy_if_read` is over those that both answered readably.
    """
    rows: list[dict[str, Any]] = []
    shared = [metric for metric in COMPARED if metric in only and metric in ours and metric in theirs]
    for group in sorted(groups, key=_order):
        for metric in shared:
            at = groups[group]
            both = at[~np.isnan(ours[metric][at]) & ~np.isnan(theirs[metric][at])]
            if len(both):
                found = stats.difference(ours[metric][both], theirs[metric][both], clusters.take(both))
                unread = {"unread": _unread(ours, both), "opponent_unread": _unread(theirs, both)}
                rows.append({"group": group, "metric": metric, **found.__dict__, **unread})
    return _corrected(rows)


def columns(values: Sequence[Mapping[str, float]]) -> Columns:
    """Metric -> value of each item, NaN where it has none."""
    names = dict.fromkeys(name for own in values for name in own)
    return {name: np.array([own.get(name, np.nan) for own in values]) for name in names}


def grouped(groups_of: Sequence[Sequence[str]]) -> dict[str, stats.Ints]:
    """Group -> indices of its items, from the groups of each item."""
    found: dict[str, list[int]] = {}
    for i, own in enumerate(groups_of):
        for name in own:
            found.setdefault(name, []).append(i)
    return {name: np.array(own) for name, own in found.items()}


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `p_holm`, over all of them that are of one metric: those stand in one table."""
    for metric in {row["metric"] for row in rows}:
        own = [row for row in rows if row["metric"] == metric]
        for row, p in zip(own, stats.holm([row["p"] for row in own]), strict=True):
            row["p_holm"] = p
    return rows


def _unread(values: Columns, own: stats.Ints) -> float | None:
    """The share of the answers to closed questions that could not be read; None without such answers."""
    if "accuracy" not in values:
        return None
    generated = own[~np.isnan(values["accuracy"][own])]
    if not len(generated):
        return None
    read = values[metrics.IF_READ][generated] if metrics.IF_READ in values else np.full(len(generated), np.nan)
    return int(np.isnan(read).sum()) / len(generated)


def _all_aligned(samples: Sequence[Sample], names: Sequence[str], answers: Answers) -> dict[str, dict[str, Given]]:
    """The answers in the order of the samples, None where one was not asked."""
    aligned: dict[str, dict[str, Given]] = {}
    for role, by_probe in answers.items():
        aligned[role] = {}
        for probe, given in by_probe.items():
            by_name = {answer.sample: answer for answer in given}
            aligned[role][probe] = [by_name.get(name) for name in names]
    return aligned


def _shown(generated: Answer | None, compared: Answer | None) -> dict[str, Any]:
    """What the predictions show of an item's answers under a probe; empty where it was not asked."""
    answer = generated or compared
    if answer is None:
        return {}
    shown: dict[str, Any] = {"text": answer.text, "choice": answer.choice, "status": answer.status, "cut": answer.cut}
    if compared is not None:
        names = ("choice", "letters", "texts", "tokens")
        shown["likelihood"] = {name: getattr(compared, name) for name in names}
    return shown


def _values(samples: Sequence[Sample], given: Mapping[str, Given], compared: Mapping[str, Given]) -> Values:
    """The scores of one model's answers; those of both ways are among those of the probe `none`."""
    values: Values = {
        probe: [
            {name: value for answer in answers if answer for name, value in metrics.score(sample, answer).items()}
            for sample, *answers in zip(samples, *(own[probe] for own in (given, compared) if own), strict=True)
        ]
        for probe in given or compared
    }
    for scores, swapped in zip(values["none"], values.get("swap", ()), strict=False):
        scores |= metrics.both_ways(scores, swapped)
    return values


def _column(values: Sequence[Mapping[str, float]], own: Sequence[int], metric: str) -> stats.Floats:
    return np.array([values[i][metric] for i in own])


def _chance(samples: Sequence[Sample]) -> float:
    """Accuracy of a uniform guess; a question with two right letters is guessed twice as often."""
    return float(np.mean([len(sample.gold) / len(sample.options) for sample in samples]))


def _order(group: str) -> tuple[int, str]:
    kinds = (*tasks.DOMAINS, "task", "ability", "source")
    return kinds.index(group.split(":")[0]), group

"""Both forms of the questions on the real sources; the published one is held against the published rows themselves."""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data import abilities, build
from medmim.data.abilities.ask import Ask
from medmim.data.seeds import stream
from medmim.data.wordings import published, strict, words
from medmim.recipe.schema import Data
from medmim.sample import Sample, Study, split_options, to_published
from tests.support import real_studies as drawn
from tests.support import shared_data

SOURCES = {
    drawn.embed: ("which_diseased", "forecast", "which_craniocaudal", "birads"),
    drawn.lumiere: ("which_sequence", "extent_of_resection", "tumor_course"),
    drawn.ms_cxr_t: ("progression",),
    drawn.odir: ("eye_diagnosis", "which_eye", "both_eyes", "shared_diagnosis", "same_diagnosis"),
    drawn.vqa_rad: ("joined",),
    drawn.pmc: ("which_figure", "match_figure", "match_caption", "same_modality", "joined_figures"),
}
# Texts of one line mean the same, or one is a case of the other; typed from the published rows.
SYNONYMS = (
    {"completely resected", "complete resection", "complete", "completely", "entirely resected", "fully resected",
     "wholly resected", "radical resection", "totally excised"},
    {"partially resected", "partial resection", "partial", "partially", "incompletely resected",
     "incomplete resection", "limited resection"},
    {"stable", "stable disease", "stable condition", "no significant change", "no new symptoms", "it is unchanged",
     "The edema has remained stable"},
    {"worsening", "progressive disease", "progressing", "advancing", "deteriorating", "it became worse"},
    {"improved", "it improved", "The edema has resolved", "The edema has improved", "recovering well",
     "partial response", "complete response"},
    {"no cancer is found", "Unchanged health outlook", "stable"},
    {"diabetic retinopathy", "moderate nonproliferative retinopathy", "mild non-proliferative retinopathy",
     "proliferative diabetic retinopathy", "laser spot"},
    {"drusen", "dry age-related macular degeneration", "macular degeneration"},
    {"cataract", "lens opacity"},
    {"epiretinal membrane", "epiretinal membrane over the macula"},
)  # fmt: skip
RANO_PAIRS = {"partial response", "complete response"}  # classes of their own, though both are an improvement


def synonyms(options: Sequence[str]) -> list[tuple[str, str]]:
    return [
        pair
        for pair in combinations(options, 2)
        if set(pair) != RANO_PAIRS and any(set(pair) <= group for group in SYNONYMS)
    ]


@cache
def samples(form: str) -> tuple[Sample, ...]:
    data = Data(source="phantom", form=form, dev_fraction=0.0, test_fraction=0.0)  # type: ignore[arg-type]
    return tuple(
        sample
        for draw, families in SOURCES.items()
        for sample in build.questions(draw(random.Random(3), 250), families, data)  # noqa: S311  test records
    )


def asks(seed: int) -> Iterator[Ask]:
    for draw, families in SOURCES.items():
        patients: dict[str, list[Study]] = defaultdict(list)
        for study in draw(random.Random(seed), 6):  # noqa: S311
            patients[study.patient].append(study)
        for family in families:
            one = abilities.FAMILIES[family]
            for size in one.patients:
                for chosen in combinations(patients.values(), size):
                    yield from one.ask(chosen, stream(seed, family))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_the_strict_form_has_one_right_option_and_no_synonym_among_the_others(seed: int) -> None:
    for ask in asks(seed):
        worded = words.put(ask, stream(seed), True, "strict")
        if worded is None:
            assert len(ask.options) == 1
            continue
        assert "{" not in worded.question and "None" not in worded.question
        if ask.options:
            assert len(worded.gold) == 1 and worded.options[worded.gold[0]] == worded.answer
            assert len(set(worded.options)) == len(worded.options) == len(ask.options) > 1
            assert not synonyms(worded.options)
            right = strict.VALUES.get(ask.family, {}).get(ask.answer, ask.answer)
            assert worded.answer == right
            assert len(worded.swapped) == (ask.swapped is not None)


def test_the_published_form_has_the_synonyms_that_the_strict_one_leaves_out() -> None:
    """Or the test above could not fail."""
    assert any(synonyms(sample.options) for sample in samples("published"))
    assert not any(synonyms(sample.options) for sample in samples("strict"))


def test_every_option_of_a_strict_question_can_be_right() -> None:
    right, offered = defaultdict(set), defaultdict(set)
    for sample in samples("strict"):
        if abilities.FAMILIES[sample.family].options:
            right[sample.family].add(sample.answer)
            offered[sample.family].update(sample.options)
    assert len(offered) == sum(bool(one.options) for one in abilities.FAMILIES.values())
    for family, options in offered.items():
        assert options <= right[family], family
    assert len(offered["tumor_course"]) == 4


def test_in_the_published_form_options_that_are_never_right_are_only_added() -> None:
    by_family = defaultdict(list)
    for sample in samples("published"):
        if sample.options:
            by_family[sample.family].append(sample)
    courses = by_family["tumor_course"]
    assert not any("response" in sample.prompt for sample in courses)
    more = sum(len(sample.options) > 2 for sample in courses) / len(courses)
    assert 0.2 < more < 0.45  # 32% of the published rows
    assert {len(sample.options) for sample in by_family["forecast"]} == {3, 4}
    assert {len(sample.options) for sample in by_family["birads"]} == {7}
    assert any(len(sample.gold) == 2 for sample in by_family["eye_diagnosis"])


def test_ages_are_named_with_one_decimal_in_the_order_of_the_images() -> None:
    ages = {study.image: f"{study.age:.1f}" for study in drawn.embed(random.Random(3), 250)}  # noqa: S311
    seen = set()
    for form in ("strict", "published"):
        for sample in samples(form):
            if sample.family == "forecast":
                found = re.findall(r"\d+\.\d", sample.question)
                own = [ages[path] for path in sample.paths]
                assert found[: len(own)] == own
                listed = f"{own[0]} and {own[1]}" if len(own) == 2 else f"{own[0]}, {own[1]}, and {own[2]}"
                assert f" ages {listed}" in sample.question
                seen.add(len(sample.paths))
    assert seen == {2, 3}


@pytest.mark.parametrize("form", ["strict", "published"])
def test_a_row_written_as_published_is_split_into_the_same_stem_and_options(form: str) -> None:
    for sample in samples(form):
        row = to_published(sample)
        text = row["conversation"][0]["content"]
        assert split_options(text.replace("<image>", "")) == (sample.question, sample.options)
        assert row["conversation"][1]["content"] == sample.target


FILES = {
    "which_diseased": ("benchmark_Held_in_Coreference", "EMBED_multichoice_typeA"),
    "forecast": ("benchmark_Held_in_Temporal", "EMBED_multichoice_typeB"),
    "which_craniocaudal": ("benchmark_Held_in_Coreference", "EMBED_multichoice_typeC"),
    "which_sequence": ("benchmark_Held_in_Coreference", "LUMIERE_multichoice_typeA"),
    "extent_of_resection": ("train_inherent_Comparison", "LUMIERE_multichoice_typeB"),
    "tumor_course": ("benchmark_Held_in_Temporal", "LUMIERE_multichoice_typeC"),
}


@cache
def rows(family: str) -> list[tuple[str, tuple[str, ...], str]]:
    """Stem, options and gold of the published rows of a type."""
    file, start = FILES[family]
    found = json.loads((shared_data.FOLDER / "med-mim" / f"Med_MIM_{file}.json").read_text("utf-8"))
    parsed = []
    for row in found:
        if row["source"].startswith(start):
            stem, options = split_options(row["conversation"][0]["content"].replace("<image>", ""))
            parsed.append((stem, options, row["conversation"][1]["content"].strip().split(": ", 1)[1]))
    return parsed


def blank(stem: str) -> str:
    """A stem without its ages."""
    number = r"(?:\d+\.\d+|nan)"
    return re.sub(rf"{number}(?:, {number})*,? and {number}", "AGES", stem)


@shared_data.needs("med-mim")
@pytest.mark.parametrize("family", FILES)
def test_every_published_question_is_of_our_pools(family: str) -> None:
    pool = published.POOLS[family]
    values = pool.values.values() or ("",)
    stems = {blank(stem.format(ages="1.0 and 2.0", value=value)) for stem in pool.stems for value in values}
    added = {text for texts in pool.added.values() for text in texts}
    for stem, options, gold in rows(family):
        assert blank(stem) in stems, stem
        if pool.answers:
            fitting = [s for s in pool.sets if set(s) <= set(options) and set(options) - set(s) <= added]
        else:
            fitting = [s for s in pool.sets if set(s[: len(options)]) == set(options)]
        assert fitting, options
        assert any(gold in s[: len(pool.answers) or None] for s in fitting)
        if pool.added:
            extra = [text for text in options if text in added]
            right = {pool.answers[s.index(gold)] for s in fitting}
            assert any(set(extra) <= set(pool.added[value]) for value in right)
            assert len(extra) <= 2
    assert {blank(stem) for stem, _, _ in rows(family)} == stems


@shared_data.needs("med-mim")
@pytest.mark.parametrize("family", FILES)
def test_what_we_write_in_the_published_form_occurs_in_the_published_rows(family: str) -> None:
    """Stem and options together, where Med-MIM ties them; sets of added options are too many to occur all."""
    pool = published.POOLS[family]
    core = set().union(*pool.sets)
    tied = {(blank(s) if pool.tied else "", len(o), frozenset(set(o) & core)) for s, o, _ in rows(family)}
    words_of = {(frozenset(set(o) & core)) for _, o, _ in rows(family)}
    ours = [s for s in samples("published") if s.family == family and s.options]
    assert len(ours) > 30
    for sample in ours:
        options = frozenset(set(sample.options) & core)
        assert options in words_of
        if pool.tied and not pool.answers and (len(rows(family)) > 300):
            assert (blank(sample.question), len(sample.options), options) in tied
        elif pool.tied and pool.answers:
            assert any((blank(sample.question), n, options) in tied for n in (2, 3, 4))


@shared_data.needs("med-mim")
def test_the_share_of_questions_with_added_options_is_that_of_the_published_rows() -> None:
    for family in ("extent_of_resection", "tumor_course"):
        share = sum(len(options) > 2 for _, options, _ in rows(family)) / len(rows(family))
        assert abs(share - published.POOLS[family].share) < 0.02


@shared_data.needs("med-mim")
def test_progression_is_worded_as_in_published_rows() -> None:
    """Their wording is a language model's; ours are stems and sets of three states that occur there word for word."""
    names = r"consolidation|edema|pleural[ _]effusion|pneumonia|pneumothorax"
    stems, sets = Counter(), Counter()
    for file in ("train_inherent_Comparison", "benchmark_Held_in_Comparison"):
        for row in json.loads((shared_data.FOLDER / "med-mim" / f"Med_MIM_{file}.json").read_text("utf-8")):
            if row["source"].startswith("MS_CXR_T_vqa"):
                stem, options = split_options(row["conversation"][0]["content"].replace("<image>", ""))
                stems[re.sub(names, "{finding}", stem)] += 1
                sets[frozenset(re.sub(names, "{finding}", option) for option in options)] += 1
    pool = published.POOLS["progression"]
    assert all(stems[stem] for stem in pool.stems)
    assert all(sets[frozenset(texts)] for texts in pool.sets)


def test_the_published_form_asks_med_mims_types_only() -> None:
    studies = drawn.embed(random.Random(4), 40)  # noqa: S311  test records
    families = ("birads", "order", "which_view")
    asked = {
        form: {s.family for s in build.questions(studies, families, Data(source="phantom", form=form))}
        for form in ("strict", "published")
    }
    assert asked == {"strict": set(families), "published": {"birads"}}
    old = build.questions(studies, ("order",), Data(source="phantom", form="published"))
    assert {s.family for s in old} == {"order"}  # a source without such types is asked as ever


def test_a_strict_question_is_told_by_its_words() -> None:
    """A data set does not say how it was worded; the task `strict` has to know."""
    assert all(map(words.is_strict, samples("strict")))
    assert not any(words.is_strict(replace(one, question=f"Look. {one.question}")) for one in samples("strict"))
    worded_as_published = {*published.POOLS, *published.EYES}
    found = {(sample.family in worded_as_published, words.is_strict(sample)) for sample in samples("published")}
    assert (True, False) in found and found <= {(True, False), (False, True)}

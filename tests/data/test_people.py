"""Who a patient is: sets of one hospital share their patients, whatever form their names have."""

import pytest

from medmim.bench import tasks
from medmim.data import people
from medmim.sample import Sample


@pytest.mark.parametrize(
    ("source", "population"),
    [
        ("MS_CXR_T", "mimic"), ("ms_cxr_t", "mimic"), ("MS-CXR-T", "mimic"), ("mimic-cxr-jpg", "mimic"),
        ("MMXU", "mimic"), ("MI-CXR", "mimic"), ("Medical-Diff-VQA", "mimic"), ("chest_imagenome", "mimic"),
        ("mimic-mixed", "mimic"), ("EMBED", "embed"), ("embed", "embed"), ("LUMIERE", "lumiere"), ("ODIR", "odir"),
        ("VQA_RAD", "vqa_rad"), ("vqa-rad", "vqa_rad"), ("PMC", "pmc"), ("llava_med", "pmc"),
        ("phantom-chest", "phantom"), ("phantom-mixed", "phantom"), ("covid-chestxray", "covid"),
        ("mimicry", "mimicry"), ("embedded", "embedded"), ("ward", "ward"), ("Diff-VQA", "mimic"),
    ],
)  # fmt: skip
def test_a_data_set_belongs_to_a_population(source: str, population: str) -> None:
    assert people.population_of(source) == population


def test_a_mimic_patient_has_one_name_with_and_without_the_letter_of_its_folder() -> None:
    assert people.identity("MS_CXR_T", "p10268877") == people.identity("mmxu", "10268877") == ("mimic", "10268877")
    assert people.identity("covid-chestxray", "p10268877") == ("covid", "p10268877")
    assert people.identity("EMBED", "14581551") != people.identity("MS_CXR_T", "14581551")


def test_intervals_count_a_patient_of_two_sets_once() -> None:
    rows = [
        Sample("temporal", "f", source, "test", False, patients, ("i",), ("i",), "?", ("a", "b"), "a", (0,))
        for source, patients in (("MS_CXR_T", ("p10268877",)), ("mmxu", ("10268877", "p10268877")))
    ]
    assert {tasks.patient_keys(row) for row in rows} == {("mimic/10268877",)}

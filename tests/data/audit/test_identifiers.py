"""Identifiers in texts are found, what radiology writes in numbers is not, and no report repeats them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmim.data import build
from medmim.data.audit import run as audit
from medmim.data.audit.check import judged
from medmim.data.audit.identifiers import KINDS, checks, find, of_headers
from medmim.errors import Refused
from medmim.recipe.schema import Audit, Recipe
from medmim.run.workspace import workspace
from medmim.sample import Sample
from tests.support.dicom_files import dicom

HELD = {
    "date": (
        "Seen on 03/14/2021.", "Untersucht am 14.03.2021.", "On January 22, 2020 a CT was made.", "3rd of May 2019",
        "admitted 2020-01-28", "Scan of 20200128.", "In November 2019 fever began.", "12-Mar-2021",
        "discharged (Jan 24)",
    ),
    "phone": ("Call (212) 555-0187.", "Tel. 030 4505 5000", "+49 30 450550", "phone 020 7946 0958", "617-555-0143 x12"),
    "mail": ("Write to j.doe@clinic.org.", "jane at clinic dot org"),
    "number": (
        "MRN 0048213", "accession number A-77812", "Compare with 48213377.", "patient ID: 88-1234", "SSN 078-05-1120",
        "1.2.840.113619.2.55.3.604688119", "prior study E1004823", "case no. 2021-4471",
    ),
    "name": ("Reported by Jane Miller.", "Dr. O'Neill agreed.", "The patient is Maria van der Berg.", "DOE^JANE^M"),
}  # fmt: skip
OTHERWISE_WRITTEN = {  # in capitals, in small letters, in names of files
    "date": (
        "14 MAR 2021", "MARCH 14, 2021", "THE 3RD OF MAY",
        "14 JAN", "14MAR2021", "14-mar-21", "may 3, 2021", "20210314104207",
        "CXR_2021-03-14.dcm", "IMG_20210314_104207.png", "at 2021-03-14T10:42", "scans/2021-03-14/a.png",
    ),
    "number": ("ID 123456", "id: AB-12345"),
    "name": (
        "PATIENT: SMITH, JOHN", "Patient name: SMITH JOHN", "Dr. SMITH reviewed", "Dr. MÜLLER", "DR. SMITH",
        "Name: Nguyen", "NAME: DOE", "Signed by A. Miller", "SIGNED BY MILLER", "patient name: john smith",
        "J. Smith, MD", "Jane Miller MD", "Patient's name is O'NEILL", "Radiologist: MILLER",
        "MR. HARPER HAS A HISTORY OF CANCER",
    ),
}  # fmt: skip
FREE = (
    "A mass of 12.5 x 10.2 x 8.0 cm at 10 o'clock, BI-RADS 4a.", "Pain is 5/10; 1/2/3 of the lobes.",
    "Considering the scans from age 64.4 and 65.4", "It may 12 mm below the carina.", "1,500,000 copies/mL",
    "Trial NCT04280705, PMID: 32007143, rs1801133.", "doses of 1000-2000 mg in 2019-2020", "T1/T2 ratio 0.8-1.2",
    "SUVmax 12.10, HU -120 to 300", "COVID-19, IL-6 and CD8 cells", "Dr. Patient was advised to return.",
    "Which image, 1 or 2, shows the larger mass? March fracture.", "week 044, slice 111", "2500000 platelets",
    "Ki-67 is 20%; ICD-10 J18.9", "Axial T2-weighted image 12 of 45, TR 4500 ms, TE 102 ms.",
    "doi 10.1148/rg.242035193",
    "Patient With Pneumonia", "GFAP 100-200-300", "the contact between lesion and 12 ribs", "12 OCT scans of the eye",
    "MAR 3 mm", "in OCT 2020", "It may 12 times occur.", "MR IMAGING", "DR SEVERITY", "MS LESIONS", "Patient: Male",
    "Disease name: Pneumonia", "Name: unknown", "PATIENT: STABLE", "The name is not given.", "Trial ID 1234567",
)  # fmt: skip


def row(question: str = "What is seen?", answer: str = "a mass", **other: object) -> Sample:
    sample = Sample(
        "temporal", "any", "clinic", "train", False, ("P0048213",), ("sha256:a",), ("s5512907/a.png",), question, (),
        answer,
    )  # fmt: skip
    return replace(sample, **other)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in HELD.items() for text in texts])
def test_an_identifier_is_found(kind: str, text: str) -> None:
    assert kind in {one.kind for one in find(text)}


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in OTHERWISE_WRITTEN.items() for text in texts]
)
def test_an_identifier_is_found_in_any_case_and_in_the_name_of_a_file(kind: str, text: str) -> None:
    assert kind in {one.kind for one in find(text)}


@pytest.mark.parametrize("text", FREE)
def test_numbers_of_medicine_are_none(text: str) -> None:
    assert [text[one.start : one.end] for one in find(text)] == []


def test_a_row_is_listed_with_what_was_found_and_does_not_say_it() -> None:
    found = {check.name: check for check in checks([row("Seen on 03/14/2021, Dr. Miller?"), row()])}
    assert [found[f"identifiers/{kind}"].value for kind in KINDS] == [1, 0, 0, 0, 0, 1]
    date, name = found["identifiers/date"].rows[0], found["identifiers/name"].rows[0]
    assert (date.found, name.found) == ("99/99/9999 in the question", "Xxxxxx in the question")
    listed = [check.as_dict() for check in found.values()]
    assert [one["name"] for one in judged(listed, Audit()) if one["crossed"]] == [
        "identifiers/date",
        "identifiers/name",
    ]
    assert not [one for one in judged(listed, Audit(max_identifiers=1)) if one["crossed"]]


def test_the_sample_s_own_patient_and_study_are_found_in_its_options_too() -> None:
    for text in ("as in P0048213", "study s5512907 is older"):
        samples = [row(answer=text), row(options=(text, "none"), answer="none", gold=(1,))]
        assert next(check.value for check in checks(samples) if check.name == "identifiers/own") == 2
    assert next(check.value for check in checks([row("patient 12?")]) if check.name == "identifiers/own") == 0


def test_what_a_header_said_at_the_build_is_a_check_of_the_rows_with_that_image() -> None:
    flagged = [{"file": "s5512907/a.png", "row": "1", "key": "BurnedInAnnotation", "reason": "is YES"}]
    other = row(paths=("b.png",))
    found = {check.name: check.value for check in of_headers([row(), other], flagged, 2)}
    assert found == {"identifiers/dicom-name": 0, "identifiers/dicom-burned-in": 1}
    assert {check.value for check in of_headers([row(), other], [], 2)} == {0}


def test_where_no_header_was_read_there_is_no_figure_and_where_some_were_it_is_said() -> None:
    samples = [row(), row(paths=("b.png",))]
    none, some = of_headers(samples, [], 0)[0], of_headers(samples, [], 1)[0]
    assert (none.value, none.note) == (None, "no DICOM header was read when the data set was built")
    assert (some.value, some.note) == (0, "of 1 of 2 images, whose DICOM header was read")


def test_a_name_that_a_hospital_s_table_repeats_is_refused_with_its_rows(tmp_path: Path) -> None:
    lines = ["patient,path,finding,caption"]
    for number in range(6):
        (tmp_path / f"{number}.dcm").write_bytes(
            dicom(np.arange(64, dtype=np.uint16).reshape(8, 8) + number, PatientName="STONE^JANE", Modality="CT")
        )
        lines.append(f"P{number},{number}.dcm,normal,A clear scan of Stone")
    (tmp_path / "studies.csv").write_text("\n".join(lines))
    source = {"name": "studies", "root": str(tmp_path), "table": "studies.csv"}
    data = {"sources": (source,), "abilities": ("single",), "dev_fraction": 0.0, "test_fraction": 0.0}
    asked = Recipe.model_validate({"name": "hospital", "data": data})
    ws = workspace(tmp_path / "home", run="run-1")
    with pytest.raises(Refused) as caught:
        audit.run(asked, ws, build.run(asked, ws).uri)
    assert caught.value.fact.startswith("identifiers/dicom-name")
    assert "caption repeats a name that the DICOM header of its image has" in "\n".join(caught.value.problems)

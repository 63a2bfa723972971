"""What an entry of `data.sources` may say: one section a source, told apart by its `name`."""

import difflib
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from medmim.recipe.keys import Positive, Section

Text = Annotated[str, Field(min_length=1)]
ENTRY_POINTS = "medmim.sources"  # group of the entry points of sources that another distribution brings


def _installed(name: str) -> str:
    if name not in BUILT_IN and name not in entry_points(group=ENTRY_POINTS).names:
        near = difflib.get_close_matches(name, BUILT_IN, 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"no source '{name}'; {hint}there are {', '.join(BUILT_IN)}, and those that are installed")
    return name


SourceName = Annotated[Text, AfterValidator(_installed)]


class Named(Section):
    """What every source has."""

    name: str = Field(description="which source reads it")


class Files(Named):
    """What every source has that reads files."""

    root: str | None = Field(None, description="folder or s3:// address of the raw data; relative: below `data.root`")
    link_roots: tuple[Text, ...] = Field((), description="as `data.link_roots`; default: that")


class Phantom(Named):
    """Drawn patients."""

    name: Literal["phantom"]
    patients: Positive = Field(1500, description="how many to draw")


class Published(Files):
    """The Med-MIM JSON files."""

    name: Literal["published"]
    annotations: str | None = Field(None, description="folder of the JSON files, where they are apart from the images")


class CovidChestxray(Files):
    """The ieee8023 layout."""

    name: Literal["covid_chestxray"]


class Embed(Files):
    """EMBED open data: mammography."""

    name: Literal["embed"]
    clinical: Text = Field("tables/EMBED_OpenData_clinical.csv", description="table of the findings, below `root`")
    metadata: Text = Field("tables/EMBED_OpenData_metadata.csv", description="table of the images, below `root`")
    images: Literal["dcm", "png"] = Field("dcm", description="png: a tree of PNG files made from the DICOM ones")
    folder: Text = Field("images", description="folder of cohort_1 and cohort_2, below `root`")


class Lumiere(Files):
    """LUMIERE: MRI of glioblastoma."""

    name: Literal["lumiere"]
    ratings: Text = Field("LUMIERE-ExpertRating-v202211.csv", description="table of the RANO ratings, below `root`")
    demographics: Text = Field("LUMIERE-Demographics_Pathology.csv", description="table of the patients, below `root`")
    images: Literal["nii", "png"] = Field(
        "nii", description="png: slices that others made, SEQUENCE_LUMIERE_images_*/Patient-*/slice_*/week_*.png"
    )
    folder: str | None = Field(
        None, description="folder of Patient-001, ..., below `root`: Imaging; of the PNG trees: `root` itself"
    )
    slices: Positive = Field(5, description="at most this many slices of a patient, evenly over the tumor")


class MsCxrT(Files):
    """MS-CXR-T: pairs of chest X-rays with their progression; images from MIMIC-CXR-JPG."""

    name: Literal["ms_cxr_t"]
    table: Text = Field(
        "MS_CXR_T_temporal_image_classification_v1.0.0.csv", description="table of the pairs, below `root`"
    )
    images: Text = Field("files", description="folder of p10, p11, ..., below `root`")
    metadata: Text = Field(
        "mimic-cxr-2.0.0-metadata.csv.gz", description="MIMIC's table of views and dates, below `root`; may be absent"
    )
    disagreement: Literal["keep", "leave_out"] = Field(
        "keep", description="labels on which the experts disagree; the published questions keep them"
    )


class LlavaMed(Files):
    """Figures of PMC articles, as LLaVA-Med published them."""

    name: Literal["llava_med"]
    captions: Text = Field("llava_med_instruct_fig_captions.json", description="captions, below `root`")
    instructions: Text = Field("llava_med_instruct_60k.json", description="conversations, below `root`")
    images: Text = Field("images", description="folder of the figures, below `root`")


class Odir(Files):
    """ODIR-5K: both fundi of a patient; a benchmark."""

    name: Literal["odir"]
    table: Text = Field("data.xlsx", description="annotations, below `root`")
    images: Text = Field("Training Images", description="folder of the images, below `root`")


class VqaRad(Files):
    """VQA-RAD: questions on single radiological images; a benchmark."""

    name: Literal["vqa_rad"]
    table: Text = Field("VQA_RAD Dataset Public.json", description="questions, below `root`")
    images: Text = Field("VQA_RAD Image Folder", description="folder of the images, below `root`")


class MedFrameQa(Files):
    """MedFrameQA: questions on frames of teaching videos; a benchmark."""

    name: Literal["medframeqa"]


class Studies(Files):
    """A hospital's own studies: a table with one row an image."""

    name: Literal["studies"]
    table: Text = Field("studies.csv", description="CSV or JSONL, one row an image, below `root`")
    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")] = Field(
        "studies", description="name of the data set on pages and in records"
    )
    columns: dict[str, Text] = Field(default_factory=dict, description="our column: the table's own, where they differ")
    terms: Text | None = Field(
        None, description="file with the terms of use in JSON, below `root`; default: nothing is allowed"
    )


class Questions(Files):
    """Ready questions in JSON Lines: a benchmark of one's own."""

    name: Literal["questions"]
    file: Text = Field("questions.jsonl", description="one question a line, below `root`; images are named from there")
    terms: Text | None = Field(
        None, description="file with the terms of use in JSON, below `root`; default: nothing is allowed"
    )


class Other(Files):
    """A source outside this package, found by its entry point."""

    name: SourceName
    options: dict[str, Any] = Field(default_factory=dict, description="its own options, which it checks itself")


BUILT_IN: dict[str, type[Named]] = {
    "phantom": Phantom,
    "published": Published,
    "covid_chestxray": CovidChestxray,
    "embed": Embed,
    "lumiere": Lumiere,
    "ms_cxr_t": MsCxrT,
    "llava_med": LlavaMed,
    "odir": Odir,
    "vqa_rad": VqaRad,
    "medframeqa": MedFrameQa,
    "studies": Studies,
    "questions": Questions,
}


def _tag(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return name if isinstance(name, str) and name in BUILT_IN else "other"


AnySource = Annotated[
    Annotated[Phantom, Tag("phantom")]
    | Annotated[Published, Tag("published")]
    | Annotated[CovidChestxray, Tag("covid_chestxray")]
    | Annotated[Embed, Tag("embed")]
    | Annotated[Lumiere, Tag("lumiere")]
    | Annotated[MsCxrT, Tag("ms_cxr_t")]
    | Annotated[LlavaMed, Tag("llava_med")]
    | Annotated[Odir, Tag("odir")]
    | Annotated[VqaRad, Tag("vqa_rad")]
    | Annotated[MedFrameQa, Tag("medframeqa")]
    | Annotated[Studies, Tag("studies")]
    | Annotated[Questions, Tag("questions")]
    | Annotated[Other, Tag("other")],
    Discriminator(_tag),
]

"""A look-alike of LLaVA-Med's data: figures of articles with captions and conversations that say what they show."""

import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmim.data.lookalike.pictures import Bytes, encoded, enlarged, grey, layers, tinted
from medmim.data.lookalike.tables import Done, Written, number_of, turn, write
from medmim.data.seeds import pixels, stream
from medmim.data.sources.phantom_draw import CLASSES, SIDES, SIZES, Scene, exposed, plane

_DOMAINS = ("chest_xray", "mri", "histology", "gross", "ct_scan")
_CALLED = {
    "chest_xray": "chest X-ray",
    "mri": "MRI of the brain",
    "histology": "histology section",
    "gross": "gross photograph of the skin",
    "ct_scan": "CT scan of the abdomen",
}
_MODALITY = {"chest_xray": "X-ray", "mri": "MRI", "gross": "dermoscopy", "ct_scan": "CT"}
_SHOWN = {  # the painter's finding -> words of a caption
    "opacity": "consolidation", "effusion": "pleural effusion", "nodules": "group of nodules", "tumor": "bright tumor",
    "infarct": "dark infarct", "nevus": "round nevus", "melanoma": "irregular melanoma", "lesion": "dark liver lesion",
    "hematoma": "bright hematoma", "normal": "",
}  # fmt: skip
_TURNS = (  # what is wrong with an article's last figure, in turn
    "", "", "PNG named .jpg", "", "picture missing", "", "LFS pointer", "", "figure of the article before", "",
    "two panels", "", "GIF named .jpg",
)  # fmt: skip
_FACTOR = 3  # pixels of the file for one of the painter's
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 48213\n"


@dataclass
class _Figure:
    name: str  # pair_id
    article: int
    domain: str
    caption: str
    picture: Bytes


def write_source(folder: Path, patients: int, seed: int, done: Done) -> Written:
    """Write the look-alike of LLaVA-Med's data.

    Args:
        folder: To be made.
        patients: How many articles, since no patient is known; article N is the same for any number of them.
        seed: Equal seeds give equal bytes.
        done: Called after each article.

    Returns:
        What was written; `rows` are the figures.
    """
    urls: list[object] = []
    captions: list[object] = []
    instruct: dict[str, list[object]] = {"10k": [], "60k": [], "60k_inline_mention": []}
    alignment: list[object] = []
    written = Written("llava-med", patients)
    for number in range(patients):
        rng = stream(seed, "llava-med", number)
        trouble = turn(_TURNS, number)
        figures = _article(number, seed)
        if trouble == "figure of the article before":
            last = _article(number - 1, seed)[0]
            figures[-1] = _Figure(figures[-1].name, figures[-1].article, last.domain, last.caption, last.picture)
        for place, figure in enumerate(figures):
            spoiled = trouble if place == len(figures) - 1 else ""
            if spoiled == "two panels":
                _panels(figure)
            archive = f"PMC{figure.article % 10_000_000}"
            member = {
                "pair_id": figure.name,
                "pmc_tar_url": f"https://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/{archive}.tar.gz",
            }
            urls.append({**member, "image_file_path": f"{archive}/figure-g{place + 1:03d}.jpg"})
            mention = f"Figure {place + 1} shows this {_CALLED[figure.domain]}."
            captions.append(
                {
                    "pair_id": figure.name,
                    "fig_label": f"Figure {place + 1}",
                    "fig_caption": figure.caption,
                    "in_text_mention": [mention if number % 2 else {"tokens": mention}],
                }
            )
            talk = _conversation(figure, rng)
            row = {
                "id": figure.name,
                "image": f"{figure.name}.jpg",
                "domain": {domain: domain == figure.domain for domain in _DOMAINS},
            }
            if number % 3 == 0:
                instruct["10k"].append({**row, "conversations": talk})
            instruct["60k"].append({**row, "conversatons": talk})  # the key is misspelled there
            instruct["60k_inline_mention"].append({**row, "conversatons": talk})
            shown = [
                {"from": "human", "value": "Describe the image.\n<image>"},
                {"from": "gpt", "value": figure.caption},
            ]
            alignment.append({"id": row["id"], "image": row["image"], "conversations": shown})
            written.dirty += Counter({spoiled: 1} if spoiled else {})
            if spoiled != "picture missing":
                kind = spoiled.split()[0] if " named " in spoiled else "JPEG"
                content = _LFS if spoiled == "LFS pointer" else encoded(figure.picture, kind)
                write(folder / "images" / f"{figure.name}.jpg", content)
                written.images += 1
        done()
    write(folder / "llava_med_image_urls.jsonl", b"".join(json.dumps(url).encode() + b"\n" for url in urls))
    for name, rows in instruct.items():
        write(folder / f"llava_med_instruct_{name}.json", json.dumps(rows, indent=2).encode())
    write(folder / "llava_med_instruct_fig_captions.json", json.dumps(captions, indent=2).encode())
    write(folder / "llava_med_alignment_500k.json", json.dumps(alignment, indent=2).encode())
    written.rows = len(captions)
    return written


def _article(number: int, seed: int) -> list[_Figure]:
    """The figures of an article, as they are before anything is wrong with them."""
    rng = stream(seed, "llava-med", number, "figures")
    article = number_of(number, 10_000_000, 30_000_000, seed, "article")
    figures = []
    for place in range(rng.choice((1, 2, 2, 3))):
        domain = rng.choice(_DOMAINS)
        figures.append(_figure(f"{article}_F{place + 1}", article, domain, rng, (seed, "llava-med", number, place)))
    return figures


def _figure(name: str, article: int, domain: str, rng: random.Random, who: tuple[object, ...]) -> _Figure:
    """Draw a figure, and say what it shows."""
    noise = pixels(*who, "noise")
    person = f"a {rng.randrange(20, 85)}-year-old {rng.choice(('man', 'woman'))}"
    if domain == "histology":  # purple nuclei on pink, few or many
        size = rng.choice(SIZES)
        tissue = 0.75 + 0.4 * (exposed(np.full((96, 96), 0.5), noise) - 0.5)
        nuclei = sum(
            np.roll(layers(Scene("X-ray", "nodules", size, "left"), *who, part)[1], (7 * part - 20, 9 * part), (0, 1))
            for part in range(3)
        )
        picture = tinted(enlarged(tissue - 1.3 * nuclei, _FACTOR), (70, 20, 110), (250, 190, 220))
        many = {"small": "few", "medium": "several", "large": "many"}[size]
        return _Figure(name, article, domain, f"Histology section of {person} with {many} clustered nuclei.", picture)
    scene = rng.choice([one for one in CLASSES if one.modality == _MODALITY[domain]])
    if domain == "gross":
        shown = exposed(plane(scene, pixels(*who)), noise)
        picture = tinted(enlarged(shown, _FACTOR), (60, 25, 20), (250, 205, 180))
    else:
        bare, added = layers(scene, *who)
        picture = grey(enlarged(exposed(bare + added, noise), _FACTOR))
    what = f"a {scene.size} {_SHOWN[scene.finding]}" if scene.size else "no abnormality"
    where = f" on the {scene.side} of the image" if scene.side in SIDES else ""
    return _Figure(
        name,
        article,
        domain,
        f"{_CALLED[domain][0].upper()}{_CALLED[domain][1:]} of {person} showing {what}{where}.",
        picture,
    )


def _panels(figure: _Figure) -> None:
    """Make a figure one of two panels, the second a darker copy."""
    figure.picture = np.concatenate([figure.picture, figure.picture // 2], axis=1)
    figure.caption = f"(A) {figure.caption} (B) The same with another window."


def _conversation(figure: _Figure, rng: random.Random) -> list[dict[str, str]]:
    """Questions and answers on a figure; the mark of the image stands before or behind the first question."""
    first = "What kind of image is this?"
    turns = [
        ("human", f"<image>\n{first}" if rng.random() < 0.5 else f"{first}\n<image>"),
        ("gpt", f"It is a {_CALLED[figure.domain]}."),
        ("human", "What does it show?"),
        ("gpt", figure.caption),
    ]
    return [{"from": who, "value": text} for who, text in turns]

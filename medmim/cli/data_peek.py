"""What `medmim data peek` shows: rows as the model reads them, drawn on the terminal."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, zip_longest
from pathlib import Path
from typing import Any

from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from medmim import shards
from medmim.lvlm import llava
from medmim.lvlm.encode import IGNORED, encode
from medmim.lvlm.family import Segment, Turn
from medmim.sample import Sample

_WIDEST = 32  # columns of one image; a character is two pixels
_TRAINED = "bold green"


@dataclass(frozen=True)
class Row:
    """A row as the model reads it. `tokens` pairs each token's text with whether it is trained on."""

    sample: Sample
    segments: tuple[Segment, ...]
    tokens: tuple[tuple[str, bool], ...]
    pictures: tuple[Image.Image, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.sample.id,
            "ability": self.sample.ability,
            "family": self.sample.family,
            "images": list(self.sample.images),
            "rendered": [{"text": segment.text, "trained": segment.trained} for segment in self.segments],
            "tokens": [text for text, _ in self.tokens],
            "length": len(self.tokens),
            "trained": sum(trained for _, trained in self.tokens),
        }


def read_rows(folder: Path, base: Path, n: int) -> list[Row]:
    """The first rows of a data set, one ability after another, as a base reads them.

    Args:
        folder: A data set.
        base: A model; its weights are not read.
        n: How many rows.
    """
    text = llava.load_text(base)
    samples = list(islice(_in_turn(shards.read_samples(folder)), n))
    images = shards.Images(folder) if (folder / "images").is_dir() else {}
    rows = []
    for sample in samples:
        turns = [Turn(sample.prompt, sample.target)]
        encoded = encode(text, turns, len(sample.images))
        texts = text.tokenizer.convert_ids_to_tokens(encoded.ids)
        trained = (label != IGNORED for label in encoded.labels)
        rows.append(
            Row(
                sample,
                tuple(text.family.render(turns, len(sample.images))),
                tuple(zip(texts, trained, strict=True)),
                tuple(images[name] for name in sample.images if name in images),
            )
        )
    return rows


def draw(rows: Sequence[Row]) -> None:
    """Print rows; their pictures only on a terminal."""
    console = Console()
    for one in rows:
        sample, facts = one.sample, one.to_json()
        console.rule(f"{sample.ability} / {sample.family}, {sample.split}, {sample.source}")
        if console.is_terminal and one.pictures:
            console.print(_beside(one.pictures, min(_WIDEST, console.width // len(one.pictures) - 2)))
        for number, path in enumerate(sample.paths):
            size = " x ".join(map(str, one.pictures[number].size)) if one.pictures else "no pixels"
            console.print(f"image {number + 1}: {path} ({size})", markup=False, highlight=False)
        console.print(Text.assemble(*((s.text, _TRAINED if s.trained else "") for s in one.segments)))
        console.print(_tokens(one.tokens))
        console.print(f"{facts['length']:,} tokens, {facts['trained']:,} of them trained")


def _in_turn(samples: Sequence[Sample]) -> Iterator[Sample]:
    """One row of each ability, then the second of each, ..."""
    by_ability: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_ability[sample.ability].append(sample)
    for rank in zip_longest(*by_ability.values()):
        yield from (sample for sample in rank if sample is not None)


def _tokens(tokens: Sequence[tuple[str, bool]]) -> Text:
    """Tokens with a bar between them; a run of one token, such as an image's, is printed once with its count."""
    text = Text()
    for (token, trained), run in groupby(tokens):
        count = sum(1 for _ in run)
        text.append(token + (f" x{count}" if count > 1 else ""), _TRAINED if trained else "dim")
        text.append("|", "dim")
    return text


def _beside(pictures: Sequence[Image.Image], width: int) -> Text:
    """Pictures side by side; each character is two pixels, the upper its foreground, the lower its background."""
    small = []
    for picture in pictures:
        height = max(2, round(picture.height * width / picture.width / 2) * 2)
        small.append(picture.convert("RGB").resize((width, min(height, 2 * width))))
    text = Text()
    for y in range(0, max(picture.height for picture in small), 2):
        for picture in small:
            for x in range(width):
                if y + 1 < picture.height:
                    upper, lower = (Color.from_rgb(*_rgb(picture, x, y + i)) for i in (0, 1))
                    text.append("▀", Style(color=upper, bgcolor=lower))
                else:
                    text.append(" ")
            text.append("  ")
        text.append("\n")
    return text


def _rgb(picture: Image.Image, x: int, y: int) -> tuple[int, int, int]:
    pixel = picture.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return pixel[0], pixel[1], pixel[2]

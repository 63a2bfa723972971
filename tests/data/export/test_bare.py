"""Pictures leave the store without the texts in their files, and with the same pixels."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medmim import shards, store
from medmim.data import gallery
from medmim.data.export import bare
from medmim.data.export import run as export
from medmim.run.workspace import workspace
from tests.support.bench import samples

NAME = "Doe^Jane"


def drawn(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def planted(kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = NAME
    if kind == "JPEG":
        data = drawn(kind, exif=exif, comment=NAME, icc_profile=b"p" * 200, **options)
        return data + NAME.encode()  # after the end, as some cameras do
    texts = PngInfo()
    texts.add_text("PatientName", NAME)
    texts.add_itxt("comment", NAME)
    return drawn(kind, exif=exif, pnginfo=texts, icc_profile=b"p" * 200, **options) + NAME.encode()


@pytest.mark.parametrize("options", [{"kind": "PNG"}, {"kind": "JPEG"}, {"kind": "JPEG", "progressive": True}])
def test_texts_go_and_pixels_and_colours_stay(options: dict[str, Any]) -> None:
    data = planted(**options)
    left = bare.bare(data)
    assert NAME.encode() in data and NAME.encode() not in left
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(left)) as after:
        assert after.tobytes() == before.tobytes() and after.format == before.format
        assert after.info["icc_profile"] == before.info["icc_profile"]
        assert not after.getexif() and "comment" not in after.info and "PatientName" not in after.info


def test_a_picture_without_texts_is_the_same_bytes() -> None:
    for kind in ("PNG", "JPEG"):
        assert bare.bare(drawn(kind)) == drawn(kind)


def test_a_comment_between_scans_goes() -> None:
    data = drawn("JPEG", progressive=True)
    scan = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    comment = b"\xff\xfe" + (2 + len(NAME)).to_bytes(2) + NAME.encode()
    assert bare.bare(data[:scan] + comment + data[scan:]) == data


def test_a_picture_that_is_cut_off_or_holds_garbage_loses_its_texts_too() -> None:
    jpeg, png = drawn("JPEG"), drawn("PNG")
    assert bare.bare(drawn("JPEG", comment=NAME)[:-20]) == jpeg[:-20]
    assert bare.bare(jpeg[:2] + NAME.encode() + jpeg[2:]) == jpeg
    assert bare.bare(png[:-12] + (1 << 20).to_bytes(4) + b"tEXt" + NAME.encode()) == png[:-12]
    assert bare.bare(png[:-20]) == png[:-20]
    for data in (jpeg, png):
        for end in range(len(data) - 1, 0, -97):
            assert data.startswith(bare.bare(data[:end]))


@pytest.mark.parametrize("to", ["llava", "trl", "med-mim", "gallery"])
def test_no_text_of_a_file_is_in_an_export_or_a_gallery(to: str, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    row = replace(next(one for one in samples() if len(one.images) > 1), split="train")
    kinds = ("JPEG", "PNG")
    held = [(name, kinds[at % 2].lower(), planted(kinds[at % 2])) for at, name in enumerate(sorted(set(row.images)))]
    folder = tmp_path / "made"
    folder.mkdir()
    shards.write(folder, [row], held)
    data = store.publish(folder, ws.store, "data", {"images": len(held)}, {})
    if to == "gallery":
        (page,) = gallery.write(ws, data)
        out = page.parent
    else:
        out = tmp_path / "out"
        export.export(ws, data.uri, out, to, in_house=True, named=True)
    files = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    for path in out.rglob("*.parquet"):
        files += [one["bytes"] for images in pq.read_table(path).column("images").to_pylist() for one in images]
    assert len(files) > 3 and not any(NAME.encode() in one for one in files)
    assert any(one[:4] == b"\x89PNG" or one[:3] == b"\xff\xd8\xff" for one in files)

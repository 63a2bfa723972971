"""Builds data sets from drawn JPEG, PNG and DICOM files, and compares with a bare loop over the same files.

    python benchmarks/data_build.py [--files 48] [--rows 1000 --rows 10000] [--side 2400]

The loop decodes, reduces to `data.max_side` and encodes as PNG each file, in one process for each core, and nothing
else: no checks, no digests, no shards. The build is the whole stage `data`: reading and checking the table, digests,
decoding, questions, shards, publishing; the modules are imported before. Both are measured by the clock and by the CPU
time of all their processes, which counts where other programs use the same cores. Then the same build again, with
nothing changed and with one patient more, and the memory of builds of many small images.
"""

import argparse
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray
from PIL import Image
from process_memory import peak_of
from rich.console import Console
from rich.table import Table

KINDS = ("jpg", "png", "dcm")
RATIO, AGAIN = 0.85, 0.05  # what is to be reached
_HEAD = "patientid,offset,finding,view,modality,folder,filename"
_FINDINGS = ("Pneumonia/Viral/COVID-19", "Pneumonia/Bacterial", "Tuberculosis", "No Finding")
_VISITS = 4  # images of a patient


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock and of all cores together."""

    wall: float
    cpu: float


def spent(do: Callable[[], object]) -> Spent:
    """What a call takes, its finished child processes included."""
    wall, cpu = time.perf_counter(), _cpu()
    do()
    return Spent(time.perf_counter() - wall, _cpu() - cpu)


def _cpu() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


def film(seed: int, side: int) -> NDArray[np.uint16]:
    """A picture of 12 bits with the grain and the slow shades of a film."""
    rng = np.random.default_rng(seed)
    shades = Image.fromarray(rng.uniform(500, 3300, (9, 8)).astype(np.float32)).resize((side * 5 // 6, side), 3)
    grain = rng.normal(0, 25, (side, side * 5 // 6))
    found: NDArray[np.uint16] = (np.asarray(shades) + grain).clip(0, 4095).astype(np.uint16)
    return found


def written(values: NDArray[np.uint16], kind: str) -> bytes:
    """The file of a picture; JPEG and PNG of its upper 8 bits."""
    out = io.BytesIO()
    if kind != "dcm":
        picture = Image.fromarray((values >> 4).astype(np.uint8))
        picture.save(out, "JPEG" if kind == "jpg" else "PNG", **({"quality": 92} if kind == "jpg" else {}))
        return out.getvalue()
    import pydicom
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Rows, file.Columns = values.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.WindowCenter, file.WindowWidth = 2048, 4096
    file.PixelData = values.astype("<u2").tobytes()
    file["PixelData"].VR = "OW"
    pydicom.dcmwrite(out, file, enforce_file_format=True)
    return out.getvalue()


def raw(folder: Path, kind: str, patients: range, side: int) -> None:
    """Add patients to a folder in the layout of `covid_chestxray`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table = folder / "metadata.csv"
    lines = [] if table.exists() else [_HEAD]
    for patient in patients:
        for visit in range(_VISITS):
            name = f"{patient}-{visit}.{kind}"
            (folder / "images" / name).write_bytes(written(film(_VISITS * patient + visit, side), kind))
            finding = _FINDINGS[(patient + visit // 2) % len(_FINDINGS)]
            lines.append(f"{patient},{30 * visit},{finding},PA,X-ray,images,{name}")
    with table.open("a", encoding="utf-8") as out:
        out.write("".join(f"{line}\n" for line in lines))


def bare(path: Path) -> bytes:
    """Decode, reduce and encode one file."""
    from medmim.recipe.schema import MAX_SIDE

    if path.suffix == ".dcm":
        import pydicom

        file = pydicom.dcmread(path)
        shown = pydicom.pixels.apply_windowing(file.pixel_array, file)
        picture = Image.fromarray(np.rint(shown * (255 / 4095)).astype(np.uint8))
    else:
        picture = Image.open(path)
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def loop(files: list[Path]) -> Spent:
    """The bare loop over files, on all cores; the start of the processes is not counted."""
    with ProcessPoolExecutor(cpu_count(), get_context("spawn")) as pool:
        list(pool.map(_warm, [files[0]] * 4 * cpu_count()))
        wall = time.perf_counter()
        cpu = sum(pool.map(_cpu_of, files))
        wall = time.perf_counter() - wall
    return Spent(wall, cpu)


def _warm(path: Path) -> None:
    time.sleep(0.2)  # so that each process gets one
    bare(path)


def _cpu_of(path: Path) -> float:
    start = time.process_time()
    bare(path)
    return time.process_time() - start


def build(folder: Path, home: Path) -> None:
    """The stage `data` on a folder."""
    from medmim.data import build
    from medmim.recipe import loading
    from medmim.run.workspace import workspace

    section = {"source": "covid_chestxray", "root": str(folder), "dev_fraction": 0.1, "test_fraction": 0.2}
    build.run(loading.validate({"name": "bench", "data": section}, "bench"), workspace(home))


def speed(kind: str, place: Path, files: int, side: int) -> dict[str, Spent]:
    """What loop, first build, build of the same, and build with one patient more take."""
    patients = files // _VISITS
    folder, home = place / kind, place / f"home-{kind}"
    raw(folder, kind, range(patients), side)
    found = {"loop": loop(sorted((folder / "images").iterdir()))}
    found["first"] = spent(lambda: build(folder, home))
    found["again"] = spent(lambda: build(folder, home))
    raw(folder, kind, range(patients, patients + 1), side)
    found["one more"] = spent(lambda: build(folder, home))
    return found


def memory(rows: int, place: Path) -> float:
    """Peak MiB (PSS of the process tree) of a build of so many small images."""
    raw(place / f"rows-{rows}", "png", range(rows // _VISITS), 60)
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]); import data_build;"
        "data_build.build(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    folder, home = str(place / f"rows-{rows}"), str(place / f"home-{rows}")
    return peak_of([sys.executable, "-c", code, folder, home, str(Path(__file__).parent)])[2] / 2**20


def main() -> None:
    """Print both tables; exit code 1 where the build is slower than it is to be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=48, help="of each kind; 0: memory only")
    parser.add_argument("--side", type=int, default=2400, help="their longer side, in pixels")
    parser.add_argument("--rows", type=int, action="append", help="images of the builds whose memory is measured")
    parser.add_argument("--json", action="store_true", help="print the numbers as one line of JSON as well")
    given = parser.parse_args()
    cores, facts, slow = cpu_count(), {}, False
    console = Console()
    table = Table(
        "files", "loop/s", "build/s", "ratio", "ratio by CPU", "same again", "one patient more", "of all", box=None,
        title=f"{given.files} files of {given.side} x {given.side * 5 // 6}, {cores} cores",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="medmim-") as temporary:
        for kind in KINDS if given.files else ():  # imports all that the builds below need
            raw(Path(temporary) / f"first-{kind}", kind, range(4), 40)
            build(Path(temporary) / f"first-{kind}", Path(temporary) / f"first-home-{kind}")
        for kind in KINDS if given.files else ():
            found = speed(kind, Path(temporary), given.files, given.side)
            first, bare_loop, again, more = (found[name] for name in ("first", "loop", "again", "one more"))
            ratio, by_cpu = bare_loop.wall / first.wall, bare_loop.cpu / first.cpu
            slow |= max(ratio, by_cpu) < RATIO or again.cpu > AGAIN * first.cpu
            table.add_row(
                kind, f"{given.files / bare_loop.wall:.1f}", f"{given.files / first.wall:.1f}", f"{ratio:.2f}",
                f"{by_cpu:.2f}", f"{again.cpu / first.cpu:.1%}", f"{more.cpu / first.cpu:.1%}",
                f"{_VISITS / given.files:.1%}",
            )  # fmt: skip
            facts[kind] = {name: vars(one) for name, one in found.items()}
        console.print(table)
        rows = Table("images", "peak MiB", box=None)
        for count in given.rows or (1_000, 10_000):
            facts[f"rows {count}"] = {"peak": memory(count, Path(temporary))}
            rows.add_row(f"{count:,}", f"{facts[f'rows {count}']['peak']:,.0f}")
        console.print(rows)
    if given.json:
        print(json.dumps(facts))
    sys.exit(int(slow))


if __name__ == "__main__":
    main()

"""Gathers what `train_gpu.py` needs beside torch and transformers, as wheels for a machine without network.

    python benchmarks/gather_wheels.py FOLDER [--python 3.12]

The versions and hashes are those of requirements.txt, for Linux on x86_64. Nothing is put into FOLDER where they take
more than 60 MiB together. The last line is the command that installs them on that machine. It asks for nothing else:
an image with a torch of its own often lacks packages that PyPI's torch names.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

MOST = 60 << 20  # bytes
PINS = Path(__file__).parents[1] / "requirements.txt"
# medmim's training needs pydantic, rich and peft, the Trainer accelerate; the others are what these need
WANTED = (
    "accelerate", "annotated-types", "markdown-it-py", "mdurl", "peft", "psutil", "pydantic", "pydantic-core",
    "pygments", "rich", "typing-extensions", "typing-inspection",
)  # fmt: skip
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")


def pinned(names: Sequence[str], text: str) -> Iterator[str]:
    """The entries of some packages in a requirements file, hashes included.

    Raises:
        SystemExit: One of them is not in the file.
    """
    entries = {entry.partition("==")[0]: entry for entry in re.split(r"\n(?=\S)", text)}
    for name in names:
        if name not in entries:
            sys.exit(f"error: {name} is not in {PINS.name}; run `make lock`, or correct this list")
        yield "\n".join(line for line in entries[name].splitlines() if not line.lstrip().startswith("#"))


def gather(folder: Path, python: str, most: int = MOST) -> int:
    """Download the wheels into a folder, all of them or none; returns their bytes.

    Raises:
        SystemExit: pip fails, or they take too much room.
    """
    with tempfile.TemporaryDirectory() as name:
        wheels, list_ = Path(name) / "wheels", Path(name) / "requirements.txt"
        list_.write_text("\n".join(pinned(WANTED, PINS.read_text("utf-8"))) + "\n", encoding="utf-8")
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", "--require-hashes", "--implementation", "cp", "--python-version", python,
            *(word for platform in PLATFORMS for word in ("--platform", platform)), "-r", str(list_),
            "-d", str(wheels),
        ]  # fmt: skip
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"error: pip could not download wheels for Python {python}")
        size = sum(file.stat().st_size for file in wheels.iterdir())
        if size > most:
            sys.exit(f"error: the wheels take {size / 2**20:.1f} MiB, more than {most / 2**20:.0f}")
        folder.mkdir(parents=True, exist_ok=True)
        for file in wheels.iterdir():
            shutil.copy(file, folder)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="of that machine")
    given = parser.parse_args()
    if not re.fullmatch(r"3\.1[1-4]", given.python):
        parser.error(f"--python {given.python}: medmim needs 3.11 to 3.14")
    size = gather(given.folder, given.python)
    print(f"{len(WANTED)} wheels, {size / 2**20:.1f} MiB of {MOST / 2**20:.0f}, in {given.folder}", file=sys.stderr)
    print(f"python -m pip install --no-index --no-deps {shlex.quote(str(given.folder))}/*.whl")


if __name__ == "__main__":
    main()

"""What another version of the reader stored is read again, and what an equal one stored is not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import medmim
from medmim.bench.reader.reply import reader, reread
from medmim.sample import Answer, Sample

ASKED = Sample(
    "temporal", "change", "s", "test", False, ("p",), ("0",), ("0",), "What is it?", ("stable", "worse"), "stable", (0,)
)  # fmt: skip


def test_a_stored_answer_is_read_by_this_version():
    stored = Answer(ASKED.id, "swap", "key", "A\n\nBoth scans were compared.", None, "unparsed", cut=True)
    assert reread(ASKED, stored) == Answer(stored.sample, "swap", "key", stored.text, 0, "parsed", cut=True)
    broken = Answer(ASKED.id, "none", "key", "", None, "error", "timeout")
    assert reread(ASKED, broken) is broken


@pytest.mark.parametrize(
    ("changed", "same"),
    [(f"bench/reader/{name}.py", False) for name in ("extract", "mentions", "reply", "words", "said")]
    + [("sample.py", False), ("bench/page/leaderboard.py", True), ("bench/scoring.py", True)],
)
def test_only_a_change_of_what_reads_a_text_has_stored_answers_read_again(changed, same, tmp_path):
    copied = shutil.copytree(Path(medmim.__file__).parent, tmp_path / "medmim")
    with (copied / changed).open("a", encoding="utf-8") as file:
        file.write("# another rule\n")
    code = "from medmim.bench.reader.reply import reader; print(reader())"
    other = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                           env={"PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert (other.stdout.strip() == reader()) == same

"""Command-line text that is not UTF-8: refused in words, but for paths that exist."""

import os
import subprocess
import sys

import pytest

from medmim.cli import arguments
from medmim.errors import UserError


@pytest.mark.parametrize(
    "raw", [b"Gr\xf6\xdfe?", b"\xff", b"--model=openai:http://x/v1#caf\xe9", b"\x80abc", b"a\xed\xa0\x80"]
)
def test_bytes_of_another_encoding_are_refused(raw):
    with pytest.raises(UserError, match="argument 2 is not text in UTF-8") as caught:
        arguments.check(["ask", os.fsdecode(raw)])
    assert caught.value.exit_code == 2 and caught.value.fix
    assert str(caught.value).encode()


def test_a_text_and_a_path_that_exists_are_taken(tmp_path):
    odd = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    open(odd, "w", encoding="utf-8").close()
    arguments.check(["ask", "größer?", "\U0001f600", odd, f"--data={odd}", "--home=ü"])


def test_the_command_line_ends_with_one_message_and_code_2(tmp_path):
    command = [sys.executable, "-m", "medmim.cli.main", "ask", "tiny-mantis", b"Gr\xf6\xdfe?"]
    ended = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=60)
    assert ended.returncode == 2
    assert b"is not text in UTF-8" in ended.stderr and b"Traceback" not in ended.stderr

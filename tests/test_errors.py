"""An error shows fact, reason and fix, has the right exit code and no traceback."""

import errno
import pickle
import sys
from pathlib import Path

import pytest

from medmim.errors import Refused, Unavailable, UserError, from_os_error, require


def test_an_error_prints_fact_problems_reason_and_fix() -> None:
    error = UserError(
        "rows.json is wrong", "the rows are cut off", "download it again", ["row 3: no image", "row 4: x"]
    )
    assert str(error).split("\n") == [
        "rows.json is wrong",
        "  - row 3: no image",
        "  - row 4: x",
        "reason: the rows are cut off",
        "fix: download it again",
    ]
    assert str(UserError("only a fact")) == "only a fact"


def test_of_many_problems_the_first_are_shown_and_the_rest_counted() -> None:
    error = UserError("wrong", problems=[f"row {i}" for i in range(1000)])
    lines = str(error).split("\n")
    assert len(lines) == 22 and lines[-1] == "  - and 980 more" and len(error.problems) == 1000


@pytest.mark.parametrize(("kind", "code"), [(UserError, 2), (Refused, 1), (Unavailable, 75)])
def test_each_kind_has_its_exit_code_and_crosses_processes_whole(kind: type[UserError], code: int) -> None:
    error = kind("fact", "reason", "fix", ["one"])
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind and str(back) == str(error) and back.exit_code == error.exit_code == code


def test_a_missing_extra_is_reported_with_its_pip_line() -> None:
    assert require("json", "bench").__name__ == "json"
    with pytest.raises(UserError) as caught:
        require("no_such_module.inner", "finetune")
    assert "no_such_module is not installed" in caught.value.fact
    assert "pip install 'medmim[finetune]'" in caught.value.fix and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_inner_module", "no_such_inner_module is not installed"),
        (
            "raise ImportError('libcudart.so.13: cannot open')",
            "half_installed does not load: libcudart.so.13: cannot open",
        ),
    ],
)
def test_an_installed_module_that_does_not_load_is_reported_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    (tmp_path / "half_installed.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        require("half_installed", "finetune")
    assert "half_installed" not in sys.modules


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, UserError, "the disk is full"),
        (errno.EDQUOT, UserError, "the quota is used up"),
        (errno.EFBIG, UserError, "a file grew too large"),
        (errno.EIO, Unavailable, "Input/output error"),
        (errno.ECONNREFUSED, Unavailable, "Connection refused"),
        (errno.EACCES, UserError, "no permission"),
        (errno.EROFS, UserError, "no permission"),
        (errno.ENOENT, UserError, "No such file or directory"),
    ],
)
def test_temporary_os_errors_exit_with_75_and_permanent_ones_with_2(
    number: int, kind: type[UserError], message: str
) -> None:
    error = from_os_error(OSError(number, "text of the system", "/data/file"), "writing the shards")
    assert type(error) is kind and error.exit_code == (75 if kind is Unavailable else 2)
    assert error.fact == f"{message} while writing the shards: /data/file"


def test_an_os_error_without_a_number_keeps_its_message() -> None:
    assert from_os_error(OSError("the codec broke"), "reading").fact == "the codec broke while reading"

"""An error shows fact, reason and fix, has the right exit code and no traceback."""

import errno
import pickle
import socket
import ssl
import sys
from pathlib import Path

import pytest

from medmim.errors import Refused, Unavailable, UserError, as_user_error, from_os_error, out_of_memory, require


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
        (errno.ENETUNREACH, Unavailable, "Network is unreachable"),
        (errno.EHOSTUNREACH, Unavailable, "No route to host"),
        (errno.ENETDOWN, Unavailable, "Network is down"),
        (errno.EBUSY, Unavailable, "Device or resource busy"),
        (errno.ENOTCONN, Unavailable, "Transport endpoint is not connected"),
        (errno.ENOLCK, Unavailable, "No locks available"),
        (errno.ENOBUFS, Unavailable, "No buffer space available"),
        (errno.EADDRNOTAVAIL, Unavailable, "Cannot assign requested address"),
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


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (socket.gaierror(-3, "Temporary failure in name resolution"), 75, "Temporary failure in name resolution"),
        (socket.gaierror(-2, "Name or service not known"), 75, "Name or service not known"),
        (socket.herror(1, "Unknown host"), 75, "Unknown host"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), 75, "EOF occurred"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), 75, "wrong version number"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), 2, "certificate verify failed"),
        (TimeoutError("timed out"), 75, "timed out"),
        (ConnectionError("gone"), 75, "gone"),
        (OSError("the codec broke"), 70, "OSError: the codec broke"),
        (OSError(), 70, "OSError"),
    ],
    ids=repr,
)
def test_what_is_an_os_error_by_its_class_only_is_told_by_its_own_words(
    error: OSError, code: int, words: str, tmp_path: Path
) -> None:
    for told in (from_os_error(error, "reading", tmp_path), as_user_error(error, "reading", tmp_path)):
        assert told.exit_code == code and words in told.fact and "this path" not in told.reason
        assert "permission" not in told.fact and "Unknown error" not in told.fact


ON_GPU = [
    "CUDA out of memory. Tried to allocate 7 GiB. GPU 0 has a total capacity of 79 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "NCCL Error 1: unhandled cuda error: Cuda failure 2 'out of memory'",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory (MPS allocated: 18.00 GB)",
]
ON_MACHINE = [
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4",
    "[enforce fail at CPUAllocator.cpp:68] . DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    "unable to mmap 4096 bytes from file </dev/shm/x>: Cannot allocate memory (12)",
    "std::bad_alloc",
]


@pytest.mark.parametrize(
    ("text", "where"), [(text, "GPU") for text in ON_GPU] + [(text, "machine") for text in ON_MACHINE]
)
def test_memory_that_is_used_up_is_known_by_its_words_and_never_retried(text: str, where: str) -> None:
    assert out_of_memory(RuntimeError(text)) == where
    told = as_user_error(RuntimeError(text), "asking")
    assert told.exit_code == 2 and told.fact == f"the {where} ran out of memory while asking" and told.fix


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("shapes do not fit"),
        RuntimeError(""),
        ValueError("CUDA out of memory"),
        KeyError("memory"),
    ],
    ids=repr,
)
def test_another_error_is_not_called_memory(error: Exception, tmp_path: Path) -> None:
    assert out_of_memory(error) is None and as_user_error(error, "asking", tmp_path).exit_code == 70

"""What ends a worker reaches the driver once; what a lost worker causes in the others is left to Ray, which retries."""

import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medmim.errors import Unavailable, UserError, as_user_error
from medmim.finetune.ray import errors


def raised_in(module: str, error: Exception) -> Exception:
    """The error, as raised by a function of that module that was called here."""
    code = types.ModuleType(module)
    exec("def fail(error):\n    raise error", code.__dict__)
    fail: Callable[[Exception], None] = code.fail
    try:
        fail(error)
    except Exception as caught:
        return caught
    raise AssertionError


@pytest.mark.parametrize("error", [UserError("bad", "why", "fix", ["a"]), Unavailable("S3 is away", "why", "wait")])
def test_a_user_error_reaches_the_driver_as_it_is(error: UserError, tmp_path: Path) -> None:
    errors.write(str(tmp_path), error)
    assert errors.exists(str(tmp_path))
    found = errors.pop(str(tmp_path))
    assert isinstance(found, UserError) and found.as_dict() == error.as_dict()
    assert not errors.exists(str(tmp_path)) and errors.pop(str(tmp_path)) is None


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 2, 0), (2, 0, 1)])
def test_where_several_workers_fail_the_error_of_the_first_stands(order: tuple[int, ...], tmp_path: Path) -> None:
    for rank in order:
        errors.write(str(tmp_path), UserError(f"of {rank}"), rank)
    found = errors.pop(str(tmp_path))
    assert isinstance(found, UserError) and found.fact == "of 0"


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("medmim.finetune.loop", KeyError("input_ids")),
        ("medmim.finetune.loop", RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
        ("torch.nn.modules.linear", RuntimeError("expected scalar type Float but found BFloat16")),
        ("transformers.models.llava", AttributeError("no attribute 'image_token_id'")),
        ("torch.distributed.distributed_c10d", TypeError("all_reduce() got an unexpected keyword")),
        ("tokenizers", Exception("a Rust panic")),
        ("medmim.finetune.loop", torch.AcceleratorError("CUDA error: device-side assert triggered", 710)),
        ("medmim.finetune.loop", KeyError("NCCL")),
    ],
)
def test_an_unforeseen_exception_becomes_a_fault_of_medmim_with_the_workers_traceback(
    module: str, error: Exception, tmp_path: Path
) -> None:
    errors.write(str(tmp_path), raised_in(module, error))
    found = errors.pop(str(tmp_path))
    assert found is not None
    fault = as_user_error(found, "training", tmp_path / "home")
    assert fault.exit_code == 70 and f"{type(error).__name__}: {error} (in a training worker)" in fault.fact
    (log,) = (tmp_path / "home" / "errors").iterdir()
    assert ", in raised_in\n" in log.read_text("utf-8")


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("torch.distributed.distributed_c10d", RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1")),
        ("torch.distributed.distributed_c10d", RuntimeError("NCCL error: remote process exited")),
        ("torch.distributed.rendezvous", RuntimeError("Timed out after 601 seconds waiting for clients")),
        ("ray.train.v2._internal.execution", Exception("the controller is gone")),
        ("ray._private.worker", RuntimeError("The actor died unexpectedly before finishing this task")),
        ("medmim.finetune.loop", torch.AcceleratorError("an illegal memory access was encountered", 700)),
        ("medmim.finetune.loop", torch.distributed.DistBackendError("the watchdog of rank 3 caught a timeout")),
        ("deepspeed.runtime.engine", RuntimeError("CUDA error: unspecified launch failure\nCompile with ...")),
        ("torch.autograd.graph", RuntimeError("NCCL communicator was aborted on rank 1")),
    ],
)
def test_a_lost_peer_or_device_is_left_to_ray(module: str, error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised:
        errors.write(str(tmp_path), raised_in(module, error))
    assert raised.value is error and not errors.exists(str(tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory", 2),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("NCCL error: Cuda failure 2 'out of memory'"),
    ],
)
def test_memory_that_was_used_up_is_not_retried(error: Exception, tmp_path: Path) -> None:
    errors.write(str(tmp_path), raised_in("medmim.finetune.loop", error))
    found = errors.pop(str(tmp_path))
    assert found is not None and str(error).splitlines()[0] in str(found)

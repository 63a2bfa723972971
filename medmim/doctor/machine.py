"""What `medmim doctor` checks on this machine. Each check returns its line, or raises the error that its line shows.

Heavy libraries are imported in processes of their own, side by side: one that crashes or hangs is one failed line.
"""

import json
import locale
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import medmim
from medmim import progress, tracking
from medmim.doctor.check import Check, run_side_by_side, store
from medmim.errors import Unavailable, UserError, within
from medmim.lvlm import memory
from medmim.recipe import names
from medmim.redact import shown
from medmim.run.workspace import Workspace, sqlite_path

_GIB = 1 << 30
_PROBE_SECONDS = 60
_MLFLOW_SECONDS = 5  # until it is not tried again
_SOCKET_PATH = 107  # bytes that Linux allows for the path of a Unix socket
_RAY_SOCKET = "medmim-12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
_TORCH = """
import json, torch
cuda = torch.cuda
gpus = [cuda.get_device_properties(i) for i in range(cuda.device_count())] if cuda.is_available() else []
print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads(), "build": torch.version.cuda,
                  "gpus": [[g.name, g.total_memory] for g in gpus], "bf16": bool(gpus) and cuda.is_bf16_supported()}))
"""
_RAY = "import json, ray, ray.train; print(json.dumps({'version': ray.__version__}))"


def check_all(home: Path, ws: Workspace | None) -> Iterator[Check]:
    """Every check in the order of the screen; all of them run at once.

    Args:
        home: Where the home is or will be.
        ws: The workspace, if it could be resolved; else store and MLflow are not checked.
    """
    checks: dict[str, Callable[[], Check]] = {
        "python": _python,
        "locale": _locale,
        "torch": _torch,
        "memory": _memory,
        "disk": lambda: _disk(home),
        "ray": _ray,
        "kfp": _kfp,
        "extras": _extras,
        "bases": _bases,
    }
    if ws is not None:
        checks |= {"store": lambda: store(ws.store), "mlflow": lambda: _mlflow(ws)}
    return run_side_by_side(checks)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 15):
        raise UserError(f"{version} at {sys.executable}", fix="use Python 3.11 to 3.14")
    return Check("python", "ok", f"{version} at {sys.executable}")


def _locale() -> Check:
    name = next((f"{name}={os.environ[name]}" for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "")
    text = locale.getencoding() + (f" ({name})" if name else "")
    if progress.locale_encoding() == "utf-8":
        return Check("locale", "ok", text)
    fix = "export LC_ALL=C.UTF-8: files are UTF-8 all the same, but this screen may not show every character"
    return Check("locale", "warn", text, fix)


def _torch() -> Check:
    if "finetune" not in _meant():
        return Check("torch", "ok", "left out: this installation neither trains nor asks a model")
    found = _import("torch", _TORCH, "finetune")
    text = f"{found['version']}, {found['threads']} threads"
    if found["gpus"]:
        gpus = ", ".join(f"{name} ({memory / _GIB:.0f} GiB)" for name, memory in found["gpus"])
        return Check("torch", "ok", f"{text}, {gpus}, {'bf16' if found['bf16'] else 'no bf16: fp32'}")
    if Path("/proc/driver/nvidia/version").exists():
        why = f"built for CUDA {found['build']}" if found["build"] else "a build without CUDA"
        return Check("torch", "warn", f"{text}, does not see the GPU ({why})", "install torch for the driver's CUDA")
    return Check("torch", "ok", f"{text}, no GPU: runs on the CPU in fp32")


def _memory() -> Check:
    total, free = memory.of_machine(), None
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10
    free = min(total, total if free is None else free)
    text = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free, {os.cpu_count()} cores"
    if free < 4 * _GIB:
        return Check("memory", "warn", text, "the demo takes up to 4 GB: close something")
    return Check("memory", "ok", text)


def _disk(home: Path) -> Check:
    folder = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    text = f"{free / _GIB:.1f} GiB free at {folder}"
    if free < _GIB:
        raise Unavailable(text, fix="free some space, or give another folder with --home")
    if free < 5 * _GIB:
        return Check("disk", "warn", text, "the demo fits; real data sets need more: --home, MEDMIM_STORE")
    return Check("disk", "ok", text)


def _mlflow(ws: Workspace) -> Check:
    version, path = _version("mlflow"), sqlite_path(ws.tracking)
    with within(_MLFLOW_SECONDS):
        tracking.check(ws)
    if path is not None:
        existing = next(place for place in (path, *path.parents) if place.exists())
        if not os.access(existing, os.W_OK):
            raise UserError(f"{existing} cannot be written", fix="fix its permissions, or give another --home")
        return Check("mlflow", "ok", f"{version}, {path}{'' if path.exists() else ' (made on first use)'}")
    if not tracking.is_database_server(ws.tracking) and not ws.tracking.startswith(("http://", "https://")):
        return Check("mlflow", "ok", f"{version}, {shown(ws.tracking)} (not checked)")
    return Check("mlflow", "ok", f"{version}, {shown(ws.tracking)} answers")


def _ray() -> Check:
    with socket.socket() as server, socket.socket() as client:
        try:
            server.bind(("127.0.0.1", 0))
            server.listen()
            client.settimeout(2)
            client.connect(server.getsockname())
        except OSError as error:
            raise UserError(
                "loopback does not connect", str(error), "bring `lo` up: Ray talks over 127.0.0.1"
            ) from None
    places = (tempfile.gettempdir(), "/tmp")  # noqa: S108  where the launcher may put Ray's folder
    lengths = [len(os.fsencode(Path(place) / _RAY_SOCKET)) for place in places if os.access(place, os.W_OK)]
    if min(lengths, default=_SOCKET_PATH + 1) > _SOCKET_PATH:
        raise UserError(
            f"{' and '.join(places)}: no place for Ray's sockets",
            reason=f"they need a writable folder, and a socket's path has at most {_SOCKET_PATH} bytes",
            fix="fix the permissions of /tmp, or set TMPDIR to a short folder",
        )
    return Check("ray", "ok", f"{_import('ray', _RAY, 'finetune')['version']}, loopback connects")


def _kfp() -> Check:
    version, pinned = _version("kfp"), names.KFP_VERSION
    if version != pinned:
        raise UserError(
            f"{version}", reason=f"the pipelines are compiled with {pinned}", fix=f"pip install kfp=={pinned}"
        )
    return Check("kfp", "ok", version)


def _meant() -> list[str]:
    """The extras that this installation is meant to have: all, but in an image that says which in MEDMIM_EXTRAS."""
    known = metadata.metadata("medmim").get_all("Provides-Extra") or []
    named = os.environ.get("MEDMIM_EXTRAS", "").split()
    return [extra for extra in known if extra in named] if named else known


def _extras() -> Check:
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires("medmim") or ()]
    extras = _meant()
    if not (Path(medmim.__file__).parents[1] / "pyproject.toml").is_file():  # only a checkout needs them
        extras = [extra for extra in extras if extra != "dev"]
    missing = {}
    for extra in ("", *extras):
        needs = [need for need in wanted if need.marker is None or need.marker.evaluate({"extra": extra})]
        missing[extra] = [f"{need.name}{need.specifier}" for need in needs if not _installed(need)]
    if missing.pop(""):
        raise UserError("packages that every command needs are missing", fix="pip install medmim")
    incomplete = [extra for extra in extras if missing[extra]]
    if not incomplete:
        return Check("extras", "ok", ", ".join(extras))
    text = "; ".join(f"{extra} lacks {', '.join(missing[extra])}" for extra in incomplete)
    fix = f"pip install 'medmim[{','.join(incomplete)}]'"
    if {"finetune", "bench"} & set(incomplete):
        raise UserError(text, fix=fix)
    return Check("extras", "warn", text, fix)


def _installed(need: Any) -> bool:
    try:
        return bool(need.specifier.contains(metadata.version(need.name), prereleases=True))
    except metadata.PackageNotFoundError:
        return False


def _bases() -> Check:
    from medmim.lvlm import checkpoint

    shipped = checkpoint.shipped()
    if not shipped:
        raise UserError("the package holds no base checkpoint", fix="install medmim again, or run `make bases`")
    wrong = []
    for name in shipped:
        folder = checkpoint.resolve(name)
        card = folder / "README.md"
        if not card.is_file() or checkpoint.digest(folder)[:16] not in card.read_text("utf-8"):
            wrong.append(name)
    if wrong:
        raise UserError(f"{', '.join(wrong)}: not the weights that the model card names", fix="install medmim again")
    return Check("bases", "ok", ", ".join(shipped))


def _import(module: str, code: str, extra: str) -> dict[str, Any]:
    """What a process of its own prints as JSON in its last line, or why it could not."""
    fix = f"pip install 'medmim[{extra}]'"
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"`import {module}` takes over {_PROBE_SECONDS} s", fix="check disk and memory") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise UserError(f"{module} does not load", reason=lines[-1], fix=fix)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise UserError(f"{package} is not installed", fix="pip install medmim") from None

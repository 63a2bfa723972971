"""Asks a model the questions of an export by the real lmms-eval, in an environment of its own.

    python benchmarks/peers/lmms_eval.py --model FOLDER --export DIR [--limit N] [--python PYTHON] [--threads N]

Prints one line of JSON: answers (in the order of the export), scores (metric -> value), stderr_clustered, seconds,
cpu_seconds, questions, rate (questions/s; imports and loading excluded, images and preprocessing included), version.
The environment is made by `make peers`; PYTHON is by default that of MEDMIM_PEERS_PYTHON, or .venv-peers.

Of lmms-eval's Hugging Face adapters, `llava_hf` takes our models; it asks one question at a time, as its task guide
recommends. Nothing is fetched from a hub, and its caches of answers are off.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_LIMIT = 1800  # s


def python(given: str | None = None) -> Path:
    """The interpreter of the environment of the peers; ends the process with a message where there is none."""
    found = Path(given or os.environ.get("MEDMIM_PEERS_PYTHON") or ROOT / ".venv-peers" / "bin" / "python").absolute()
    if not found.exists():
        sys.exit(f"error: there is no {found}\nfix: run `make peers`, or set MEDMIM_PEERS_PYTHON")
    return found


def ask(
    model: Path, export: Path, limit: int | None = None, interpreter: str | None = None, threads: int = 1
) -> dict[str, Any]:
    """Ask the questions of an export.

    Args:
        model: A checkpoint in the layout of transformers, with its chat template.
        export: As `medmim bench export --to lmms-eval` writes it, with one task.
        limit: Only the first `limit` questions.
        interpreter: As for `python`.
        threads: Of torch.

    Returns:
        As the module says.
    """
    (task,) = (path.stem for path in export.glob("medmim_*.yaml"))
    here = Path(__file__).with_name("lmms_eval_timed.py")  # -P: beside it lies this file, which has lmms-eval's name
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        work = Path(name)
        settings = {"pretrained": model, "device_map": "cpu", "attn_implementation": "sdpa", "dtype": "float32"}
        command = [
            python(interpreter), "-P", here, work / "seconds.json", "--model", "llava_hf",
            "--model_args", ",".join(f"{key}={value}" for key, value in settings.items()),
            "--include_path", export, "--tasks", task, "--batch_size", "1", "--device", "cpu",
            "--log_samples", "--output_path", work / "out", *(["--limit", limit] if limit else []),
        ]  # fmt: skip
        own = {"HF_HOME": str(work / "hf"), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LMMS_EVAL"))}
        done = subprocess.run(
            list(map(str, command)),
            cwd=work,
            env={**kept, **own, "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_LIMIT,
        )
        written = list(work.glob("out/*/*_results.json"))
        if done.returncode or not written:
            sys.exit(f"{done.stdout[-3000:]}\nerror: lmms-eval ended with {done.returncode} and {len(written)} results")
        found = json.loads(written[0].read_text("utf-8"))
        (samples,) = work.glob("out/*/*_samples_*.jsonl")
        rows = [json.loads(line) for line in samples.read_bytes().split(b"\n") if line]
        took = json.loads((work / "seconds.json").read_text("utf-8"))
    # `resps` is left out where it equals `filtered_resps`
    rows.sort(key=lambda row: int(row["doc_id"]))
    scores = found["results"][task]
    return {
        "answers": [_text(row.get("resps", row["filtered_resps"])) for row in rows],
        "scores": {
            name.removesuffix(",none"): scores[name] for name in ("accuracy,none", "token_f1,none") if name in scores
        },
        "stderr_clustered": scores.get("accuracy_stderr_clustered,none"),
        **took,
        "rate": took["questions"] / took["seconds"],
        "version": _version(python(interpreter)),
    }


def _text(replies: Any) -> str:
    while isinstance(replies, list):  # one for each repetition and filter
        replies = replies[0]
    return str(replies)


def _version(interpreter: Path) -> str:
    code = "from importlib.metadata import version; print(version('lmms-eval'), version('transformers'))"
    return subprocess.run([interpreter, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout.strip()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--export", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--python")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print(json.dumps(ask(given.model.resolve(), given.export.resolve(), given.limit, given.python, given.threads)))


if __name__ == "__main__":
    main()

"""Seconds and requests of `registry list`, `promote`, `gc` and `runs list --stored`, beside the limit of 5 s.

    eval "$(minio DIR)"    # any S3 server: AWS_ENDPOINT_URL and keys
    python benchmarks/registry_scale.py [--bucket NAME] [--runs N] [--versions N] [--decisions N]

A store of 10,000 runs (of eight stages, each with its records and a Ray job's files), 1,000 versions with their models,
scores, answers and decisions, and a log of 900 entries beside nine short ones; MLflow's own server on SQLite. What is
read is as medmim writes it, and small. A bucket that was filled before is used again. Each command runs in a process
of its own, as a person's does; `seconds` begin once Python has imported MLflow, `core` is what the process computed in
them, which a busy machine does not change much, and `process` is all of it. The plan of `gc` is made for a day 100 days
ahead, since nobody can write into S3 what is old. The first plan has no inventory, which it leaves in the store for the
next; the first promotion copies the log, if that was written ten minutes before. Ends with 1 where a limit is missed.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from medmim.run.stage import STAGES
from medmim.store.artifact import as_json, content_digest, manifest
from medmim.terms import APACHE

LIMIT = 5.0  # s
AHEAD = 100 * 86400.0  # s
RECIPES = tuple(f"chest-{n}" for n in range(10))
COMMANDS = (
    "promote, first", "registry list", "promote, next", "gc, first plan", "gc, next plan", "runs list --stored",
)  # fmt: skip
_PART = 20_000  # objects in one upload


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bucket", default="registry-scale")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=1_000)
    parser.add_argument("--decisions", type=int, default=1_000)
    parser.add_argument("--only", choices=COMMANDS, help="Run this one here, and print its requests.")
    parser.add_argument("--home", type=Path, help="Of MLflow's database. [default: a temporary folder]")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(one(given.only)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        home = (given.home or Path(scratch)).absolute()
        sys.exit(measured(given, home))


def measured(given: argparse.Namespace, home: Path) -> int:
    """Print the rows; 1 where a limit is missed."""
    made = Made(given.bucket, given.runs, given.versions, given.decisions)
    keys = fill(made)
    missed = False
    with mlflow_server(home, made) as tracking:
        os.environ |= {"MEDMIM_STORE": f"s3://{given.bucket}/store", "MEDMIM_HOME": str(home / "home")}
        os.environ |= {"MLFLOW_TRACKING_URI": tracking, "MEDMIM_USER": "jane"}
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {keys:,} objects, {given.runs:,} runs, "
              f"{given.versions:,} versions, {given.decisions:,} decisions")  # fmt: skip
        print(
            "| command | S3 requests | MLflow requests | seconds | core | process | limit |\n"
            "|---|---:|---:|---:|---:|---:|---:|"
        )
        for name in COMMANDS:
            begun = time.perf_counter()
            command = [sys.executable, __file__, "--only", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
            found, process = json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - begun
            once = "first" in name
            late = found["seconds"] > LIMIT and not once
            missed |= late
            limit = "once" if once else f"{LIMIT:.0f}{' missed' if late else ''}"
            print(f"| {name} | {found['s3']:,} | {found['mlflow']:,} | {found['seconds']:.1f} "
                  f"| {found['core']:.1f} | {process:.1f} "
                  f"| {limit} |", flush=True)  # fmt: skip
    return int(missed)


def one(name: str) -> dict[str, Any]:
    """Run one command in this process; its requests and seconds."""
    import mlflow  # noqa: F401  what a person waits for at each command, whatever the store holds
    import urllib3
    from typer.testing import CliRunner

    from medmim.cli.app import app
    from medmim.housekeeping import gc
    from medmim.run.workspace import workspace

    counted: Counter[str] = Counter()
    server = os.environ["MLFLOW_TRACKING_URI"].rpartition(":")[2]
    send = urllib3.connectionpool.HTTPConnectionPool.urlopen

    def urlopen(pool: Any, *args: Any, **kwargs: Any) -> Any:
        counted["mlflow" if str(pool.port) == server else "s3"] += 1
        return send(pool, *args, **kwargs)

    urllib3.connectionpool.HTTPConnectionPool.urlopen = urlopen  # type: ignore[method-assign]
    ws = workspace(None)
    begun, used = time.perf_counter(), time.process_time()
    if name.startswith("gc"):
        found = gc.plan(ws, now=time.time() + AHEAD)
        sys.stderr.write(f"{len(found.items):,} to remove, of what stays {found.kept}\n")
    else:
        some = str(2 + int(time.time()) % 8)  # seldom the present champion
        promote = ["registry", "promote", RECIPES[0], some, "--why", "scale"]
        words = promote if name.startswith("promote") else name.split()
        answer = CliRunner().invoke(app, words, catch_exceptions=False)
        sys.stderr.write(answer.output[-300:])
        if answer.exit_code:
            sys.exit(answer.exit_code)
    took = {"seconds": time.perf_counter() - begun, "core": time.process_time() - used}
    return {**took, "s3": counted["s3"], "mlflow": counted["mlflow"]}


class Made:
    """What the store holds, as numbers and digests that depend on nothing but the sizes."""

    def __init__(self, bucket: str, runs: int, versions: int, decisions: int) -> None:
        """Nothing is written yet."""
        self.bucket, self.runs = bucket, runs
        self.store = f"s3://{bucket}/store"
        self.objects: dict[str, bytes] = {}
        self.data = [self.artifact("data", {"rows": f"data {n}"}, {}, RECIPES[n % 10]) for n in range(50)]
        self.versions = [self.version(n) for n in range(versions)]
        self.entries(decisions)

    def artifact(self, kind: str, files: Mapping[str, str], parents: Mapping[str, str], recipe: str) -> str:
        """Digest of an artifact, with its entry of the index of steps and its mark of use."""
        facts = {
            name: {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
            for name, text in files.items()
        }
        digest = content_digest(facts)
        from medmim.store import MANIFEST, PROVENANCE, Artifact

        made = Artifact(f"{self.store}/{kind}/{digest}", digest, kind, facts, {})
        record = {"recipe": {"name": recipe, "retention": {"last": 30, "days": 30}}, "parents": dict(parents)}
        record |= {"step": kind, "terms": APACHE.as_dict(), "time": "2026-01-01T00:00:00+00:00", "who": "nobody"}
        self.objects |= {f"{kind}/{digest}/{name}": text.encode() for name, text in files.items()}
        self.objects |= {
            f"{kind}/{digest}/{PROVENANCE}": as_json(record),
            f"{kind}/{digest}/{MANIFEST}": as_json(manifest(made)),
            f"used/{kind}/{digest}": b"",
            f"steps/{kind}/{hashlib.sha256(digest.encode()).hexdigest()}.json": json.dumps({"digest": digest}).encode(),
        }
        return digest

    def version(self, number: int) -> dict[str, str]:
        """The tags of a version, and its artifacts."""
        recipe, data = RECIPES[number % 10], self.data[number % 50]
        model = self.artifact("model", {"config.json": "{}", "weights": f"model {number}"}, {"data": data}, recipe)
        parents = {"data": data, "model": model}
        answers = [self.artifact("answers", {"a": f"answers {number} {n}"}, parents, recipe) for n in range(2)]
        scores = {"models": {"tuned": {"digest": model}}, "data": data, "n": number}
        named = {**parents, "tuned": answers[0], "base": answers[1]}
        bench = self.artifact("bench", {"scores.json": json.dumps(scores)}, named, recipe)
        document = {"decision": "refused", "candidate": model, "bench": bench, "rules": []}
        decision = self.artifact("decision", {"decision.json": json.dumps(document)}, {"bench": bench}, recipe)
        return {"medmim.digest": model, "medmim.uri": f"{self.store}/model/{model}", "medmim.bench": bench,
                "medmim.data": data, "medmim.recipe_name": recipe, "decision": decision}  # fmt: skip

    def entries(self, count: int) -> None:
        """The decisions: ten of each of nine models, the rest of the first."""
        numbers: Counter[str] = Counter()
        for n in range(count):
            name = RECIPES[n % 10] if n < 100 else RECIPES[0]
            numbers[name] += 1
            promoted = numbers[name] % 10 == 1
            own = (numbers[name] // 10) % 10 * 10 + RECIPES.index(name) if promoted else n % len(self.versions)
            tags = self.versions[own]
            entry = {"verdict": "promoted" if promoted else "refused", "version": str(own // 10 + 1),
                     "n": numbers[name], "digest": tags["medmim.digest"],
                     "uri": tags["medmim.uri"], "evidence": tags["decision"],
                     "evidence_uri": f"{self.store}/decision/{tags['decision']}", "bench": tags["medmim.bench"],
                     "against": "", "why": "held_in: +2.0 points over base", "who": "nobody",
                     "time": "2026-01-01T00:00:00+00:00"}  # fmt: skip
            self.objects[f"decisions/{name}/{numbers[name]}.json"] = json.dumps(entry, indent=1).encode()

    def run_objects(self) -> Iterator[tuple[str, bytes]]:
        """The runs' records."""
        first = datetime(2024, 1, 1, tzinfo=UTC)
        for n in range(self.runs):
            recipe, tags = RECIPES[n % 10], self.versions[n % len(self.versions)]
            run = f"runs/{recipe}-{first + timedelta(hours=n):%Y%m%d-%H%M%S}-{n % 65536:04x}"
            yield f"{run}/recipe.json", json.dumps({"name": recipe, "pipeline": "train"}).encode()
            for stage in STAGES:
                digest = tags["medmim.bench"] if stage in ("bench", "report") else tags["medmim.digest"]
                record = {"stage": stage, "status": "done", "uri": f"{self.store}/x/{digest}", "digest": digest,
                          "seconds": 12.5, "facts": {"name": recipe, "tags": tags}}  # fmt: skip
                yield f"{run}/{stage}.json", json.dumps(record).encode()
            for name in ("order.json", "held.json", "result.json", "status.json", "events.json"):
                yield (
                    f"{run}/jobs/medmim-finetune-{n:08x}/{name}",
                    json.dumps({"model": tags["medmim.digest"]}).encode(),
                )
            yield f"{run}/jobs/medmim-finetune-{n:08x}/logs/head/ray-head.log", b"a line\n"


def fill(made: Made) -> int:
    """Write what the bucket lacks; how many objects there are."""
    from minio import Minio
    from minio.commonconfig import SnowballObject

    address = os.environ["AWS_ENDPOINT_URL"]
    client = Minio(address.partition("://")[2], os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"],
                   secure=address.startswith("https"), region=os.environ.get("AWS_REGION"))  # fmt: skip
    every = [*made.objects.items(), *made.run_objects()]
    if client.bucket_exists(made.bucket):
        return len(every)
    client.make_bucket(made.bucket)
    for first in range(0, len(every), _PART):
        part = every[first : first + _PART]
        client.upload_snowball_objects(
            made.bucket,
            [SnowballObject(f"store/{key}", data=BytesIO(data), length=len(data)) for key, data in part],
        )
        sys.stderr.write(f"\r{first + len(part):,} of {len(every):,} objects")
    sys.stderr.write("\n")
    return len(every)


@contextmanager
def mlflow_server(home: Path, made: Made) -> Iterator[str]:
    """The address of MLflow's own server, with the versions: 40 of the first model, the others are candidates."""
    import requests

    from medmim.run.workspace import Workspace, sqlite_uri

    home.mkdir(parents=True, exist_ok=True)
    database = home / "mlflow.db"
    if not database.exists():
        from medmim import tracking

        ws = Workspace(home, made.store, sqlite_uri(database))
        api = tracking.client(ws)
        for name in (*RECIPES, *(f"{name}-candidate" for name in RECIPES)):
            api.create_registered_model(name)
        for n, tags in enumerate(made.versions):
            name = RECIPES[n % 10] if n < 100 else f"{RECIPES[n % 10]}-candidate"
            api.create_model_version(name, f"{made.store}/pyfunc/{n}", tags=tags)
            if n % 100 == 99:
                sys.stderr.write(f"\r{n + 1:,} of {len(made.versions):,} versions")
        sys.stderr.write("\n")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    port = free_port()
    command[command.index("0")] = str(port)
    command += ["--backend-store-uri", sqlite_uri(database), "--artifacts-destination", str(home / "files")]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (home / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            while True:
                try:
                    if requests.get(f"http://127.0.0.1:{port}/health", timeout=2).ok:
                        break
                except requests.ConnectionError:
                    if server.poll() is not None:
                        sys.exit((home / "server.log").read_text(encoding="utf-8"))
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()

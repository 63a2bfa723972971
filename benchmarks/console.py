"""First and median milliseconds of every page of the console beside the limit of 200, and its memory.

    python benchmarks/console.py [--home DIR] [--items N] [--artifacts N]

A store with ten models that were asked 10,000 questions (100,000 answers, and those to the probes): drawn answers,
which medmim itself collects, reads, scores and publishes, as in bench_scoring.py. --artifacts adds so many benchmarks,
data sets, runs and registered models, copies of one of each with a digest or a name of its own, so that the lists are
long. The console runs as its command does. First it reads the answers into its index, once (that time is printed by
itself); then it is started again, and each page is asked: once, which is `first`, and --times more; `core` is what the
process computed for each of those. All of them in turn, 300 fill what is kept; 1,000 further ones must leave the memory
(PSS) as it is. Ends with 1 where a limit is missed.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import bench_scoring
import httpx
import mlflow
import psutil
from process_memory import tree_pss

from medmim import store
from medmim.bench import run
from medmim.recipe.schema import Bench
from medmim.run.stage import stage
from medmim.run.workspace import Workspace, workspace
from medmim.store.artifact import as_json, content_digest, manifest

LIMIT = 200.0  # ms
GROWTH = 0.05  # of memory over the further pages
FILLING = 300  # pages: what is kept of them, and the garbage that Python collects seldom, have come by then
PAGES = 1000
_PER_MINUTE = 1100  # requests, below what the console allows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="Keep the store here. [default: a temporary folder]")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--artifacts", type=int, default=0, help="Further ones in every list.")
    parser.add_argument("--times", type=int, default=20, help="Requests of each page for its median.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ws = workspace((given.home or Path(scratch)).absolute())
        benchmark = benched(ws, given.items)
        for number in range(given.artifacts):
            another(ws, number, "data", {"a.txt": str(number).encode()})
            another(ws, number, "bench", small(number))
        if given.artifacts:
            runs(ws, given.artifacts)
            registered(ws, given.artifacts)
        sys.exit(measured(ws, benchmark, given.times))


def benched(ws: Workspace, items: int) -> str:
    """Digest of the benchmark of ten models."""
    data = bench_scoring.build(ws, items)
    models = {name: str(bench_scoring.a_checkpoint(ws.home / "models", name)) for name in bench_scoring.MODELS}
    bench_scoring.fill(ws, data, models, Bench())
    return run.bench(ws, data, models, Bench())[0].digest


def small(number: int) -> dict[str, bytes]:
    """Files of a benchmark of two models, as `bench.run` writes them."""
    row = {
        "group": "held_in", "metric": "accuracy", "value": 0.6, "low": 0.5, "high": 0.7, "blind": 0.3, "chance": 0.3,
        "n": 400, "patients": 90, "unparsed": 3, "errors": 0, "swap": 0.5, "swap_low": 0.4, "swap_high": 0.6,
        "swap_n": 90, "swap_patients": 60, "cut": 0, "unparsed_cut": 0,
    }  # fmt: skip
    names = ("tuned", "base")
    scores = {
        "comparable": True, "split": "test", "protocol": "generate", "data": f"{number:064x}", "tasks": ["held_in"],
        "items": 400, "models": {name: {"digest": f"{number:064x}"} for name in names}, "answers": {},
        "differences": [],
        "leaderboard": [row | {"model": name, "group": group} for name in names for group in ("held_in", "held_out")],
        "text_only": [], "reading": [], "max_new_tokens": 32,
    }  # fmt: skip
    return {run.SCORES: json.dumps(scores).encode(), run.PREDICTIONS: b""}


def another(ws: Workspace, number: int, kind: str, files: Mapping[str, bytes]) -> None:
    """An artifact, written as `store.publish` does and without its locks; older than what is there."""
    facts = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    digest = content_digest(facts)
    made = store.Artifact(f"{ws.store}/{kind}/{digest}", digest, kind, facts, {"items": 400, "models": 2})
    folder = Path(made.uri)
    if (folder / store.MANIFEST).exists():
        return
    folder.mkdir(parents=True)
    record = {"recipe": {"name": "a-recipe"}, "parents": {}, "time": "2026-01-01T00:00:00+00:00", "who": "nobody"}
    more = {store.PROVENANCE: as_json(record), store.MANIFEST: as_json(manifest(made))}
    for name, data in {**files, **more}.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (1e9 + number, 1e9 + number))


def runs(ws: Workspace, count: int) -> None:
    """Runs of one stage each."""
    first = workspace(ws.home, run="bench-20260101-000000-0000")
    with stage(first, "bench"):
        pass
    record = store.open_store(ws.store).read(f"runs/{first.run}/bench.json")
    for number in range(count):
        folder = Path(ws.store) / "runs" / f"bench-2025{1 + number // 2500:02}01-{number % 2500:06}-{number:04x}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bench.json").write_bytes(record)


def registered(ws: Workspace, count: int) -> None:
    """Registered models of one version each: MLflow makes the first, its rows are copied."""
    path = ws.home / "mlflow.db"
    client = mlflow.MlflowClient(ws.tracking, ws.tracking)
    if client.search_registered_models("name = 'model-0'"):
        return
    client.create_registered_model("model-0")
    client.create_model_version("model-0", "models/0", tags={"medmim.digest": "0" * 64})
    with closing(sqlite3.connect(path)) as database, database:
        for table in ("registered_models", "model_versions", "model_version_tags"):
            known = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]  # noqa: S608  ours
            columns = ", ".join(known)
            values = ", ".join("?" if name == "name" else name for name in known)
            database.executemany(
                f"INSERT INTO {table} ({columns}) SELECT {values} FROM {table} WHERE name = 'model-0'",  # noqa: S608
                [(f"model-{number}",) for number in range(1, count)],
            )


def pages(client: httpx.Client, ws: Workspace, digest: str) -> dict[str, str]:
    """Title -> address."""
    first, second = (f"{digest}:{name}" for name in bench_scoring.MODELS[:2])
    items = f"/items?{urlencode({'bench': digest})}"
    found = {
        "leaderboard, list": "/leaderboard",
        "leaderboard, a later page of the list": "/leaderboard?page=2",
        "leaderboard, ten models": f"/leaderboard/{digest}",
        "leaderboard, abilities": f"/leaderboard/{digest}?groups=ability&show=swap",
        "leaderboard, CSV": f"/leaderboard/{digest}/leaderboard.csv",
        "compare, choice": "/compare",
        "compare, two models": f"/compare?{urlencode({'first': first, 'second': second})}",
        "compare, another metric": f"/compare?{urlencode({'first': first, 'second': second, 'metric': 'token_f1'})}",
        "compare, page 50": f"/compare?{urlencode({'first': first, 'second': second, 'page': 50})}",
        "items": items,
        "items, page 300": f"{items}&page=300",
        "items, wrong": f"{items}&model=mantis-8b&verdict=wrong&ability=temporal",
        "items, disagreement": f"{items}&model=mantis-8b&against=lingshu-7b&verdict=disagree",
        "items, words": f"{items}&q=case+77",
        "data": "/data",
        "models": "/models",
        "nights": "/nights",
        "runs": "/runs",
    }
    while client.get("/models").status_code == 202:  # MLflow is being started, once in a process
        time.sleep(0.2)
    html = client.get(items).text
    if item := re.search(r'"(/items/[0-9a-f]+/[0-9a-f]+)[^"]*"', html):
        found["item"] = item[1]
    if image := re.search(r'src="(/images/[^"]+)"', html):
        found["image"] = image[1].replace("&amp;", "&")
    for title, path in {"data set": f"/data/{run.scores(ws, f'{ws.store}/bench/{digest}')['data']}"}.items():
        found[title] = path
    for title, part, path in (("model", r'"(/models/[^"/?]+)"', "/models"), ("run", r'"(/runs/[^"?]+)"', "/runs")):
        if one := re.search(part, client.get(path).text):
            found[title] = one[1]
    return {title: path for title, path in found.items() if client.get(path).status_code != 404}


@contextmanager
def console(ws: Workspace) -> Iterator[tuple[httpx.Client, int]]:
    """A client of a console that has just been started, and its process id."""
    command = [sys.executable, "-m", "medmim.cli.main", "console", "--home", str(ws.home), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stderr
    try:
        for line in process.stderr:
            if found := re.search(r"http://[\d.]+:\d+", line):
                break
        else:
            sys.exit("the console did not start")
        threading.Thread(target=lambda: deque(process.stderr or (), maxlen=0), daemon=True).start()  # its log
        with httpx.Client(base_url=found[0], timeout=120) as client:
            yield client, process.pid
    finally:
        process.terminate()
        process.wait()


def paced(client: httpx.Client) -> Callable[[str], float]:
    """Asks for a page, no oftener than the console allows; returns milliseconds, without such a wait."""
    times = deque[float](maxlen=_PER_MINUTE)

    def ask(path: str) -> float:
        if len(times) == _PER_MINUTE:
            time.sleep(max(0.0, 61 - (time.monotonic() - times[0])))
        times.append(time.monotonic())
        begun = time.perf_counter()
        answer = client.get(path)
        took = 1000 * (time.perf_counter() - begun)
        if answer.status_code != 200:
            sys.exit(f"{path}: {answer.status_code}\n{answer.text[:2000]}")
        return took

    return ask


def core_ms(pid: int) -> float:
    """Milliseconds that a process has computed: unlike those of a clock, they are its own on a busy machine, too."""
    used = psutil.Process(pid).cpu_times()
    return 1000 * (used.user + used.system)


def measured(ws: Workspace, digest: str, times: int) -> int:
    """Print the rows; 1 where a limit is missed."""
    with console(ws) as (client, _):
        begun = time.perf_counter()
        waiting = [f"/items?bench={digest}"]
        while any(client.get(path).status_code == 202 for path in waiting):
            time.sleep(0.2)
        indexed = time.perf_counter() - begun
        asked = pages(client, ws, digest)
        for path in asked.values():  # what else is indexed once
            while client.get(path).status_code == 202:
                time.sleep(0.2)
    missed = False
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; index of the answers, once: {indexed:.1f} s")
    print("| page | first ms | median ms | core ms | limit ms |\n|---|---:|---:|---:|---:|")
    with console(ws) as (client, pid):
        ask = paced(client)
        for title, path in asked.items():
            first, begun = ask(path), core_ms(pid)
            median = statistics.median(ask(path) for _ in range(times))
            used = (core_ms(pid) - begun) / times
            late = max(first, median) > LIMIT
            missed |= late
            print(
                f"| {title} | {first:.0f} | {median:.0f} | {used:.0f} | {LIMIT:.0f}{' missed' if late else ''} |",
                flush=True,
            )
        walk = itertools.cycle(asked.values())
        for path in itertools.islice(walk, FILLING):
            ask(path)
        before = tree_pss(pid)
        for path in itertools.islice(walk, PAGES):
            ask(path)
        after = tree_pss(pid)
    grown = after / before - 1
    missed |= grown > GROWTH
    print(f"\nmemory (PSS): {before / 1e6:.0f} MB, after {PAGES:,} pages {after / 1e6:.0f} MB; limit {GROWTH:+.0%}")
    return int(missed)


if __name__ == "__main__":
    main()

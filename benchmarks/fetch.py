"""Measures how long a model in S3 takes to reach a node: one stream, in ranges, and by eight processes at once.

Also what is read where nothing is trained or asked: a base without its weights, the tables of a data set of as many
megabytes, and the index of its images.

    AWS_ENDPOINT_URL=... AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... python -m benchmarks.fetch s3://BUCKET/PREFIX

In front of the server (a MinIO on loopback, say) stands a proxy that answers after `--latency` seconds and sends
`--rate` MB/s on each connection, as S3 does over a network, and counts the bytes. The seconds include the start of the
processes and their imports; the peak memory is that of the largest, libraries included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medmim import shards, store
from medmim.sample import Sample
from medmim.store.s3 import connect
from tests.support.s3_proxy import Proxy, counting

ONE_STREAM = """
for name in found.files:
    place.mkdir(exist_ok=True)
    where.download(name, place / name)
"""
CODE = """
import sys; from pathlib import Path; from medmim import store
found, place = store.get(sys.argv[1]), Path(sys.argv[2]); where = store.open_store(sys.argv[1])
{}
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
INDEX = """
from medmim import shards
store.fetch(found, place, [shards.SAMPLES])
with store.ranged(found) as read:
    shards.image_ids(found.uri, {name: facts["bytes"] for name, facts in found.files.items()}, read)
"""
HOW = {
    "one stream, file after file": ("model", 1, ONE_STREAM),
    "medmim": ("model", 1, "store.fetch(found, place)"),
    "medmim, eight processes": ("model", 8, "store.fetch(found, place)"),
    "a base but the weights": ("model", 1, "store.fetch(found, place, ['*.json'])"),
    "a data set but the pixels": ("data", 1, INDEX),
}
SAMPLE = Sample(
    "comparison", "larger", "s", "train", False, ("p",), ("a", "b"), ("a", "b"), "Which?", ("1", "2"), "1", (0,), (1,)
)
_IMAGE = 128 << 10  # bytes


def measure(uri: str, proxy: Proxy, processes: int, code: str) -> tuple[float, float, float]:
    """Seconds, MB served, and the largest process's peak memory in MB."""
    proxy.reads.clear()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE.format(code), uri, f"{folder}/cache"]
        begin = time.perf_counter()
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(processes)]
        printed = [one.communicate()[0] for one in running]
        seconds = time.perf_counter() - begin
        if any(one.returncode for one in running):
            raise SystemExit("a process failed")
    return seconds, proxy.bytes / 1e6, max(int(text) for text in printed) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="s3://BUCKET/PREFIX; what is written there is removed")
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds")
    parser.add_argument("--rate", type=float, default=10, help="MB/s of a connection")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(4):
            (Path(folder) / f"model-{shard}.safetensors").write_bytes(os.urandom(args.megabytes * 250_000))
        for small in range(40):
            (Path(folder) / f"small-{small}.json").write_bytes(os.urandom(5_000))
        model = store.publish(Path(folder), args.store, "model", {}, {})
    with tempfile.TemporaryDirectory() as folder:
        images = (
            (f"sha256:{i:064x}", f"{i}.png", os.urandom(_IMAGE)) for i in range(args.megabytes * 1_000_000 // _IMAGE)
        )
        shards.write(Path(folder), [SAMPLE], images)
        data = store.publish(Path(folder), args.store, "data", {}, {})
    published = {"model": model, "data": data}
    size = sum(facts["bytes"] for facts in model.files.values()) / 1e6
    title = f"{size:,.0f} MB in {len(model.files)} files; {args.latency * 1e3:.0f} ms, {args.rate:g} MB/s a connection"
    table = Table("", "seconds", "MB/s", "MB served", "copies", "peak memory, MB", title=title, box=None)
    try:
        with counting(os.environ["AWS_ENDPOINT_URL"]) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.url
            proxy.latency, proxy.rate = args.latency, args.rate * 1e6
            for how, (kind, processes, code) in HOW.items():
                seconds, served, memory = measure(published[kind].uri, proxy, processes, code)
                cells = (f"{seconds:.1f}", f"{served / seconds:,.0f}", f"{served:,.1f}", f"{served / size:.2f}")
                table.add_row(how, *cells, f"{memory:,.0f}")
    finally:
        place = connect(args.store)
        for kind, artifact in published.items():
            for key in place.list(f"{kind}/{artifact.digest}/"):
                place.delete(key)
    Console().print(table)


if __name__ == "__main__":
    main()

"""Throughput and latency of `medmim serve` beside a bare batched loop over `generate`; equal answers, one run.

    python benchmarks/serve.py [--home DIR] [--limit N] [--repeat R] [--memory REQUESTS]

The tuned tiny LLaVA-Med and the held-in test questions of the demo (found in --home where `make demo` has run, else
made), at most 16 new tokens, fp32, one thread of torch in either process. The server runs as its command does; the
clients are coroutines of this process, each of which sends its next question when it has an answer, over HTTP with
images as PNG in base64. `generate` decodes, resizes and tokenizes the stored images of the same questions: in
left-padded batches of 32 beside 8 and 32 clients, one at a time beside one client. Ends with 1 where an answer differs.

--memory asks so many questions, each with an image that was not shown before, and compares the server's memory (PSS)
after a tenth of them with that at the end.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import bench_speed
import httpx
from PIL import Image
from process_memory import tree_pss
from rich.console import Console
from rich.table import Table

from medmim import shards
from medmim.sample import Sample

CLIENTS = (1, 8, 32)
BATCH = 32


@contextmanager
def serving(ref: str, home: Path) -> Iterator[tuple[str, int]]:
    """A server's address and process id."""
    command = [sys.executable, "-m", "medmim.cli.main", "serve", ref, "--home", str(home), "--port", "0"]
    process = subprocess.Popen([*command, "--batch-size", str(BATCH)], stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stderr
    try:
        for line in process.stderr:
            if found := re.search(r"http://\S+/v1", line):
                break
        else:
            sys.exit("the server did not start")
        os.set_blocking(process.stderr.fileno(), False)
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait()


def body(model: str, text: str, images: Sequence[bytes]) -> bytes:
    """A request."""
    urls = ["data:image/png;base64," + base64.b64encode(image).decode() for image in images]
    content = [*({"type": "image_url", "image_url": {"url": url}} for url in urls), {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": bench_speed.TOKENS}).encode()


async def ask(url: str, bodies: Sequence[bytes], clients: int) -> tuple[list[str], float, list[float]]:
    """The answers, the seconds of all, and those of each."""
    texts, seconds = [""] * len(bodies), [0.0] * len(bodies)
    left = iter(range(len(bodies)))

    async def client(http: httpx.AsyncClient) -> None:
        for number in left:
            begun = time.perf_counter()
            answer = await http.post(f"{url}/chat/completions", content=bodies[number])
            answer.raise_for_status()
            seconds[number] = time.perf_counter() - begun
            texts[number] = answer.json()["choices"][0]["message"]["content"].strip()

    async with httpx.AsyncClient(timeout=300, headers={"Content-Type": "application/json"}) as http:
        begun = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        return texts, time.perf_counter() - begun, seconds


def loop(own: bench_speed.Prepared, samples: list[Sample], size: int) -> tuple[list[str], float, list[float]]:
    """The same, of a bare loop."""
    texts, each = [], []
    begun = time.perf_counter()
    for start in range(0, len(samples), size):
        before = time.perf_counter()
        texts += bench_speed.plain(own.lvlm, own.folder, samples[start : start + size], size=size)
        each.append(time.perf_counter() - before)
    return texts, time.perf_counter() - begun, each


def quantiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """p50, p95 and p99 in milliseconds."""
    cut = statistics.quantiles(seconds, n=100, method="inclusive")
    return cut[49] * 1e3, cut[94] * 1e3, cut[98] * 1e3


def memory(url: str, pid: int, model: str, requests: int) -> None:
    """Print the memory after a tenth of the requests and after all."""

    def asked(first: int, last: int) -> int:
        for start in range(first, last, 500):
            bodies = []
            for number in range(start, min(start + 500, last)):
                out = io.BytesIO()
                Image.new("RGB", (96, 96), tuple(number.to_bytes(3, "big"))).save(out, "PNG")
                bodies.append(body(model, f"What does image {number} show?", [out.getvalue()]))
            asyncio.run(ask(url, bodies, 8))
        return tree_pss(pid)

    early = asked(0, requests // 10)
    late = asked(requests // 10, requests)
    sizes = [
        f"{asked:,} requests {size / 2**20:,.0f} MiB" for asked, size in ((requests // 10, early), (requests, late))
    ]
    print(f"memory after {', after '.join(sizes)}: {late / early:.3f} (limit 1.05)")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".medmim"))
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0)
    given = parser.parse_args()
    own = bench_speed.prepared(given.home, "serve", given.limit)
    samples, images = list(own.items.samples), shards.Images(own.folder)
    with serving(own.ref, given.home) as (url, pid):
        model = httpx.get(f"{url}/models").json()["data"][0]["id"]
        if given.memory:
            memory(url, pid, model, given.memory)
            return
        bodies = [body(model, one.prompt, [images.png(name) for name in one.images]) for one in samples]
        asyncio.run(ask(url, bodies[:BATCH], 8))
        loop(own, samples[:BATCH], BATCH)
        served = {clients: [asyncio.run(ask(url, bodies, clients)) for _ in range(given.repeat)] for clients in CLIENTS}
    bare = {size: [loop(own, samples, size) for _ in range(given.repeat)] for size in (1, BATCH)}
    fastest = {size: min(runs, key=lambda one: one[1]) for size, runs in bare.items()}
    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in (
        "",
        "questions/s",
        "of the loop's",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "p50 of generate's",
        "equal answers",
    ):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    expected, count, different = fastest[1][0], len(samples), 0
    single = quantiles(fastest[1][2])
    for size, (texts, total, _) in fastest.items():
        name = "generate, one at a time" if size == 1 else f"generate, batches of {size}"
        times = [f"{one:.1f}" for one in single] if size == 1 else [""] * 3
        table.add_row(name, f"{count / total:.1f}", "", *times, "", _equal(texts, expected))
    for clients, runs in served.items():
        texts, total, each = min(runs, key=lambda one: one[1])
        base = fastest[1 if clients == 1 else BATCH][1]
        different += sum(a != b for a, b in zip(texts, expected, strict=True))
        found = quantiles(each)
        ratio = f"{found[0] / single[0]:.2f}x" if clients == 1 else ""
        named = f"medmim serve, {clients} client{'s' * (clients > 1)}"
        times = [f"{one:.1f}" for one in found]
        table.add_row(named, f"{count / total:.1f}", f"{base / total:.2f}x", *times, ratio, _equal(texts, expected))
    Console(width=130).print(table)
    sys.exit(1 if different else 0)


def _equal(texts: Sequence[str], expected: Sequence[str]) -> str:
    return f"{sum(a == b for a, b in zip(texts, expected, strict=True))} of {len(expected)}"


if __name__ == "__main__":
    main()

"""Runs lmms-eval as its command line does, and writes what `generate_until` took: without imports, weights and data.

    PEERS_PYTHON lmms_eval_timed.py SECONDS_FILE --model llava_hf --include_path EXPORT --tasks medmim_held_in ...

Runs in the environment of the peers, and needs nothing of medmim. lmms-eval itself counts `model.generate` alone; this
counts what asking takes: images, preprocessing and generation.
"""

import json
import sys
import time
from pathlib import Path

from lmms_eval.__main__ import cli_evaluate
from lmms_eval.models import get_model


def main() -> None:
    """Time the model's requests, and run the command line."""
    place, arguments = Path(sys.argv[1]), sys.argv[2:]
    kind = get_model(arguments[arguments.index("--model") + 1])
    ask = kind.generate_until

    def timed(self, requests):  # type: ignore[no-untyped-def]  # of classes that mypy does not see here
        start, cpu = time.perf_counter(), time.process_time()
        replies = ask(self, requests)
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        place.write_text(json.dumps({**took, "questions": len(requests)}), "utf-8")
        return replies

    kind.generate_until = timed
    sys.argv = ["lmms_eval", *arguments]
    cli_evaluate()


if __name__ == "__main__":
    main()

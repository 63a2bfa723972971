"""A real panic of a Rust library: pyo3's PanicException is a BaseException and no Exception."""

import json
from typing import Any, NoReturn

PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": ""}  # a normalizer that tokenizers panics on


def panic(*_: Any) -> NoReturn:
    from tokenizers import Tokenizer

    model = {"type": "BPE", "vocab": {}, "merges": []}
    Tokenizer.from_str(json.dumps({"version": "1.0", "normalizer": PRECOMPILED, "model": model}))
    raise AssertionError("tokenizers has learnt to refuse it: find another panic")

"""Words as a part of a pattern."""

UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"  # scripts whose words touch a Latin letter beside them


def words(*alternatives: str) -> str:
    """A pattern for one of some words, in re.VERBOSE too. `tests/bench/reader/test_wordings.py` takes out each."""
    return f"(?:{'|'.join(alternatives)})".replace(" ", r"\s")

"""Decodes frames by GDCM in processes of their own: on damaged bytes it ends the process that it runs in.

Of damaged lossless JPEG and JPEG-LS a few in a hundred end in SIGSEGV or SIGABRT (GDCM 3.2). The processes start with
the first such frame and end when they have had nothing to do for a while.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import TimeoutError as Late
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from numpy.typing import NDArray

from medmim.data.sources.source import BadImage

_IDLE = 60  # s after which a process ends
_LONGEST = 120  # s for one frame; the largest take ten
_lock = threading.Lock()
_pool: Any = None


def decode(syntax: str, frame: bytes, options: Mapping[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """The values of a frame, and what pydicom says of them.

    Args:
        syntax: UID of the transfer syntax.
        frame: The compressed bytes.
        options: Of pydicom's decoder, for one frame.

    Raises:
        BadImage: GDCM ended its process, or does not end.
        Exception: Whatever GDCM raises.
    """
    for attempt in range(2):
        pool = _processes() if attempt == 0 else _new(1)  # alone: another thread's frame may have ended the first
        try:
            found: tuple[NDArray[Any], dict[str, Any]] = pool.submit(_decode, syntax, frame, dict(options)).result(
                timeout=_LONGEST
            )
            return found
        except BrokenProcessPool:
            _forget(pool)
        except Late:
            _forget(pool)
            pool.shutdown(wait=False, kill_workers=True)
            raise BadImage(f"GDCM does not decode it within {_LONGEST} s") from None
        finally:
            if attempt:
                pool.shutdown(wait=False)
    raise BadImage("compressed pixels on which GDCM ends its process")


def _decode(syntax: str, frame: bytes, options: dict[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    import os
    import warnings

    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg writes there what is wrong with the bytes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = encapsulate([frame])
        values, about = get_decoder(UID(syntax)).as_array(whole, index=0, decoding_plugin="gdcm", **options)
    return values, dict(about)


def _processes() -> Any:
    """The processes that all threads share; new ones where the last were broken."""
    global _pool
    from joblib import cpu_count

    with _lock:
        if _pool is None:
            _pool = _new(cpu_count())
        return _pool


def _forget(pool: Any) -> None:
    global _pool
    with _lock:
        if _pool is pool:
            _pool = None


def _new(count: int) -> Any:
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

    return ProcessPoolExecutor(max_workers=count, timeout=_IDLE)

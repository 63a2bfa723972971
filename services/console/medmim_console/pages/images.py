"""Images of data sets, by digest: as they are stored, or small."""

import hashlib
import io
import textwrap
from functools import lru_cache
from html import escape
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from PIL import Image, UnidentifiedImageError

from medmim import store
from medmim.data import pictures
from medmim.errors import Unavailable, UserError
from medmim.run import index
from medmim.shards import Place
from medmim.store import Artifact
from medmim_console.site import Digest, Refusal, ThisSite, failure, refused

router = APIRouter()
ImageId = Annotated[str, Path(pattern="^sha256:[0-9a-f]{1,64}$")]
Size = Literal["full", "240"]
_KEPT = 1000  # small ones, of some 10 KB
_PRIVATE = "private, max-age=3600"  # of one browser; never changes, but a patient may be erased


@router.get("/images/{digest}/{name}")
def image(request: Request, this: ThisSite, digest: Digest, name: ImageId, size: Size = "full") -> Response:
    """An image of a data set; where it cannot be shown, a page or, within a page, a picture that says why."""
    try:
        data = store.find(f"{this.ws.store}/data/{digest}")
        if data is None:
            gone = f"the data set {digest[:12]} is not in this store"
            raise Refusal(404, gone, "it was cleared away, or one of its patients was erased")
        place = pictures.stored(this.ws, data, [name]).get(name)
        if place is None:
            raise Refusal(404, f"the data set {digest[:12]} has no such image", "")
        tag = f'"{hashlib.sha256(f"{digest} {name} {size}".encode()).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": _PRIVATE}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        found, kind = _small(data.uri, name, place, int(size)) if size != "full" else _whole(data, place)
        return Response(found, media_type=kind, headers=headers)
    except index.NotReady:
        return _unseen(request, Refusal(503, "the images of this data set are being indexed", "ask again in a second"))
    except Refusal as refusal:
        return _unseen(request, refusal)
    except UserError as error:
        if not _is_embedded(request):
            return failure(request, error)
        status = 503 if isinstance(error, Unavailable) else 500
        return _unseen(request, Refusal(status, error.fact, error.reason))


def _whole(data: Artifact, place: Place) -> tuple[bytes, str]:
    """An image and its type.

    Raises:
        UserError: It is damaged.
    """
    found, kind = pictures.read(data, place)
    _decoded(data.uri, place, found)
    return found, kind


@lru_cache(maxsize=_KEPT)
def _small(uri: str, name: str, place: Place, side: int) -> tuple[bytes, str]:
    """An image of at most `side` pixels, and its type. Arguments: see `_whole`; the id keeps apart what is kept."""
    found, kind = pictures.read(store.get(uri), place)
    shown = _decoded(uri, place, found)
    if max(shown.size) <= side:
        return found, kind
    shown.thumbnail((side, side))
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=85)
    return out.getvalue(), "image/jpeg"


def _decoded(uri: str, place: Place, data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(
            f"an image of {uri}/{place.file} cannot be decoded",
            reason=f"row {place.row} of its row group {place.group}: {error}",
            fix="the file is damaged: build the data set again",
        ) from None


def _is_embedded(request: Request) -> bool:
    """Whether a page asks, to show it within itself."""
    return request.headers.get("sec-fetch-dest") == "image" or request.headers.get("accept", "").startswith("image/")


def _unseen(request: Request, refusal: Refusal) -> Response:
    if not _is_embedded(request):
        return refused(request, refusal)
    title = HTTPStatus(refusal.status).phrase
    lines = [line for part in (refusal.fact, refusal.fix) if part for line in [*textwrap.wrap(part, 38), ""]][:14]
    rows = "".join(f'<text x="150" y="{90 + 18 * i}">{escape(line)}</text>' for i, line in enumerate(lines))
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 300" font-family="sans-serif" font-size="13" '
        f'text-anchor="middle" fill="#c3cad6"><rect width="300" height="300" fill="#0c0f14"/>'
        f'<text x="150" y="60" font-weight="bold">{escape(title)}</text>{rows}</svg>'
    )
    return Response(picture, refusal.status, media_type="image/svg+xml")

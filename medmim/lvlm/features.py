"""What the decoder of a LLaVA model reads of an image: vision tower and projector, run once an image and model.

In a batch, sums are rounded by its size. Where that decides nothing, for text in fp32, the images of a batch that were
not seen before go through the tower together. Elsewhere each goes through it alone: in bf16, an answer would depend on
which other images came along, hence on what was asked before, by which probe and on which machine. On a GPU the tower
of a large model has enough to do with one image, and the decoder takes most of the time anyway.

Features wait in host memory, as `kept.budget` allows, by the digest of the image's pixels: 6 MB an image for Mantis-8B.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from medmim.lvlm.ask import Question
from medmim.lvlm.kept import Kept, budget
from medmim.lvlm.llava import Lvlm

if TYPE_CHECKING:
    from torch import Tensor

ALONE = "images one by one, options as drafts"  # in keys where last digits decide; for the latter see `decoding`


class Features:
    """The features of a model's images.

    Args:
        lvlm: The model, whose weights stay as they are.
        room: Bytes of features that are kept.
    """

    def __init__(self, lvlm: Lvlm, room: int | None = None) -> None:
        self.lvlm = lvlm
        self._features: Kept[Tensor] = Kept(budget() if room is None else room, _bytes)
        self._pixels: Kept[Tensor] = Kept(budget(), _bytes)  # that wait for the tower: 1.8 MB an image of Mantis

    def prepare(self, question: Question, exact: bool) -> None:
        """Prepare the pixels of the images whose features are not known; any thread may do it.

        Args:
            question: With the digests of its `pixels`.
            exact: As for `of`.

        Raises:
            Exception: What decoding an image or the processor raises.
        """
        for number, digest in enumerate(question.pixels):
            if _name(digest, exact) not in self._features:
                self._prepared(question, number)

    def of(self, questions: Sequence[Question], exact: bool) -> "Tensor | None":
        """The features of all images of some questions, in order, on the model's device.

        Args:
            questions: The questions.
            exact: Whether rounding decides nothing.

        Returns:
            `[images, tokens, width]`; None without images.
        """
        import torch

        places = {digest: (one, at) for one in questions for at, digest in enumerate(one.pixels)}
        if not places:
            return None
        absent = [digest for digest in places if _name(digest, exact) not in self._features]
        together = self._seen([self._prepared(*places[digest]) for digest in absent]) if exact and absent else []
        own = dict(zip(absent, together, strict=False))

        def made(digest: str) -> "Tensor":
            return own[digest] if digest in own else self._seen([self._prepared(*places[digest])])[0]

        found = {digest: self._features.get(_name(digest, exact), partial(made, digest)) for digest in places}
        for digest in absent:
            self._pixels.drop(digest)
        return torch.stack([found[name] for one in questions for name in one.pixels]).to(self.lvlm.model.device)

    def _seen(self, values: "Sequence[Tensor]") -> "Sequence[Tensor]":
        import torch

        model = self.lvlm.model
        shown = torch.cat(list(values)).to(model.device, model.dtype)
        seen: Tensor = torch.stack(model.model.get_image_features(shown, return_dict=True).pooler_output)
        return seen.cpu()  # type: ignore[return-value]  # iterates over its rows

    def _prepared(self, question: Question, number: int) -> "Tensor":
        return self._pixels.get(question.pixels[number], lambda: pixels(self.lvlm, [question.images[number]]))


def pixels(lvlm: Lvlm, images: Sequence[Any]) -> "Tensor":
    """Images as the vision tower reads them: float32 `[images, 3, height, width]`."""
    tensor: Tensor = lvlm.image_processor(list(images), return_tensors="pt")["pixel_values"]
    return tensor


def embedded(lvlm: Lvlm, ids: "Tensor", features: "Tensor | None") -> "Tensor":
    """Token ids as the decoder reads them, features in the places of the images: `[questions, longest, width]`.

    Raises:
        ValueError: There are other places than features.
    """
    model = lvlm.model.model
    found: Tensor = model.get_input_embeddings()(ids)
    if features is None:
        return found
    places = model.get_placeholder_mask(ids, inputs_embeds=found, image_features=features)
    return found.masked_scatter(places, features.to(found.dtype))


def _name(digest: str, exact: bool) -> str:
    return digest if exact else f"{digest} alone"


def _bytes(tensor: "Tensor") -> int:
    return tensor.element_size() * tensor.nelement()

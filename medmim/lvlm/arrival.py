"""Whether images reach the model of a server, by what they add to the tokens that the server counts in a prompt.

A server whose chat template writes no image, or that keeps one of several, answers all the same, and its scores are
those of a blind model. `usage.prompt_tokens` with and without the images tells.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medmim.lvlm.ask import Question

if TYPE_CHECKING:
    from PIL.Image import Image

    Count = Callable[[Sequence[Image]], int]

_MARKER = 8  # tokens that may stand for an image whose pixels were dropped: `[img-0]`, `<Image></Image>`
_SMALLER = 20  # among others an image may cost this much less than alone: some models cut only a single one into tiles
_MERGED = 2  # tokens that an image may save, since its neighbours in the text become one token
_OTHER = 4  # other images cost no less than this part of the cheapest: of fewer tiles, in other proportions
_STRIP = (160, 32)  # small, and of proportions of which a model that cuts tiles makes others than of most images
_LARGE = 512  # pixels of a side to which an image is enlarged that costs nearly nothing

Size = tuple[int, int]


class Dropped(Exception):
    """The counts say that the model did not get all images; its text is how many tokens were counted."""


@dataclass(frozen=True)
class Costs:
    """What images add to a prompt, in tokens.

    Attributes:
        images: They were seen to arrive in questions of up to so many.
        sizes: (width, height) -> what an image of that size adds.
        least: What any other adds at least.
        fixed: Whether every image adds the same.
    """

    images: int
    sizes: Mapping[Size, int]
    least: int
    fixed: bool

    def of(self, question: Question) -> int:
        """The tokens that the images of a question add to its prompt at least."""
        return sum(max(1, self.sizes.get(image.size, self.least) - _MERGED) for image in question.images)


def measure(question: Question, count: "Count", known: Costs | None = None) -> Costs:
    """What images cost, measured with the last one of a question, alone and repeated.

    Of one image that is repeated, every server that keeps some of several shows: which ones it keeps does not matter.

    Args:
        question: With images.
        count: The prompt's tokens of this question with other images, or without any.
        known: What was measured with fewer images.

    Raises:
        Dropped: Images do not arrive, or not all of them.
        ...: What `count` raises.
    """
    number, image = len(question.images), question.images[-1]
    without = count([])
    cost = _alone(image, count, without)
    sizes = dict(known.sizes) if known else {_STRIP: max(1, count([_strip()]) - without)}
    fixed = known.fixed if known else sizes[_STRIP] == cost
    if number > 1:
        needed = max(min(_MARKER, cost // 2), cost // _SMALLER)
        less = cost if number == 2 else count([image] * (number - 1)) - without
        together = count([image] * number) - without
        if together - less < needed:
            # two may cost less than one that is cut into tiles, but a third one costs what the second does
            more = count([image] * 3) - without if number == 2 else 0
            if more - together < needed:
                raise Dropped(
                    f"the prompt of a question has {without + together:,} tokens with {number} images, "
                    f"{without + less:,} with {number - 1} and {without:,} with none"
                )
        share = together // number
        fixed = fixed and abs(share - cost) <= _MERGED
        if cost - share > _MERGED:  # what a single image costs tells nothing of several
            sizes = {_STRIP: min(share, *sizes.values())}
        cost = min(cost, share)
    sizes[image.size] = min(cost, sizes.get(image.size, cost))
    least = min(sizes.values())
    return Costs(number, sizes, least if fixed else max(1, least // _OTHER), fixed)


def _alone(image: "Image", count: "Count", without: int) -> int:
    """What an image adds as the only one of a question."""
    cost = count([image]) - without
    small = 0 < cost < _MARKER  # a small image, or what is written instead of one
    if cost <= 0 or (small and count([image.resize((_LARGE, _LARGE))]) - without < _MARKER):
        raise Dropped(f"the prompt of a question has {without + cost:,} tokens with an image and {without:,} without")
    return cost


def _strip() -> "Image":
    from PIL import Image

    return Image.new("RGB", _STRIP)

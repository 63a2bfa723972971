"""The chat format of microsoft/llava-med-v1.5-mistral-7b, byte for byte, and its weight names in transformers.

Source: microsoft/LLaVA-Med, `llava/conversation.py` (`mistral_instruct`). It was published for one image. The form for
several images is our own: each image stands between two copies of its index, `(image 1: <image> image 1)`, so that a
decoder finds the number both before and after the patches. `Family.template_digest` covers both forms.
"""

import re
from collections.abc import Iterable, Sequence

from medmim.lvlm.family import Family, Segment, Turn
from medmim.sample import IMAGE


def slot(index: int, content: str) -> str:
    """Our own form for one of several images."""
    return f"(image {index}: {content} image {index})"


def write(turns: Sequence[Turn], images: int) -> list[Segment]:
    """Write the conversation; the loss is taken over ` ANSWER </s>`."""
    shown = "".join(slot(i, IMAGE) for i in range(1, images + 1)) if images > 1 else IMAGE * images
    lead = f"<s>[INST] {shown}\n" if images else "<s>[INST] "
    segments = []
    for turn in turns:
        segments.append(Segment(f"{lead}{turn.question} [/INST]"))
        if turn.answer is not None:
            segments.append(Segment(f" {turn.answer} </s>", trained=True))
        lead = "[INST] "
    return segments


LLAVA_MED = Family(
    name="llava-med",
    vision="clip_vision_model",
    text="mistral",
    slot=slot,
    write=write,
    bos="<s>",
    eos="</s>",
    pad="<pad>",
    control=(),
    phrases=("[INST] ", " [/INST]", "(image"),
    stop=("</s>",),
)

_RENAMES = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "vision_tower.vision_model."),
    (r"^model\.mm_projector\.0\.", "multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "multi_modal_projector.linear_2."),
    (r"^model\.(layers|embed_tokens|norm)\.", r"language_model.model.\1."),
    (r"^lm_head\.", "language_model.lm_head."),
)
_IGNORED = re.compile(r"\.inv_freq$|^model\.image_newline$")


def rename(names: Iterable[str]) -> dict[str, str]:
    """Map the names of a LLaVA-Med v1.5 checkpoint to those that `LlavaForConditionalGeneration` loads.

    Buffers that transformers computes itself are ignored.

    Raises:
        KeyError: A name that does not belong to this checkpoint's layout.
    """
    renamed = {}
    for name in names:
        if _IGNORED.search(name):
            continue
        for pattern, new in _RENAMES:
            if re.match(pattern, name):
                renamed[name] = re.sub(pattern, new, name)
                break
        else:
            raise KeyError(name)
    return renamed

"""The chat format of TIGER-Lab/Mantis-8B-siglip-llama3, byte for byte.

Source: TIGER-AI-Lab/Mantis, `mantis/models/conversation.py` (`conv_llama_3`) and `mantis/models/mllava/
processing_llava.py` (image wrappers). The published tokenizer prepends `<|begin_of_text|>`; here it is part of
the text.
"""

from collections.abc import Sequence

from medmim.lvlm.family import Family, Segment, Turn
from medmim.sample import IMAGE

# Mantis copied this from the model card of Llama 3 and was trained with it, so its weights expect it.
SYSTEM = "You are a pirate chatbot who always responds in pirate speak!"


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def slot(index: int, content: str) -> str:
    """What Mantis' processor writes for the `index`-th `<image>`."""
    return f"(image {index}: <Image>{content}</Image>)"


def write(turns: Sequence[Turn], images: int) -> list[Segment]:
    """Write the conversation; as in Mantis' training, the loss covers assistant header, answer and `<|eot_id|>`."""
    shown = "".join(slot(i, IMAGE) for i in range(1, images + 1))
    segments = []
    before = f"<|begin_of_text|>{_header('system')}{SYSTEM}<|eot_id|>"
    for turn in turns:
        segments.append(Segment(f"{before}{_header('user')}{shown}{turn.question}<|eot_id|>"))
        segments.append(Segment(_header("assistant"), trained=turn.answer is not None))
        if turn.answer is not None:
            segments.append(Segment(f"{turn.answer}<|eot_id|>", trained=True))
        before = shown = ""
    return segments


MANTIS = Family(
    name="mantis",
    vision="siglip_vision_model",
    text="llama",
    slot=slot,
    write=write,
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
    pad="<|pad|>",
    control=("<|start_header_id|>", "<|end_header_id|>"),
    phrases=(SYSTEM, "(image", ": <Image>", "</Image>)"),
    stop=("<|end_of_text|>", "<|eot_id|>"),
)

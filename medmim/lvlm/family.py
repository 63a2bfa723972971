"""A model family is a chat format: how a conversation is written as text, its special tokens, where answers end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

from medmim.errors import UserError
from medmim.sample import IMAGE, digest_of

RESERVED = "a question or answer contains"  # begins the error of a text that holds one


@dataclass(frozen=True)
class Turn:
    """A question and its answer; None where the model is to answer."""

    question: str
    answer: str | None = None


@dataclass(frozen=True)
class Segment:
    """A part of the rendered conversation; the loss is taken over parts that are `trained`."""

    text: str
    trained: bool = False


@dataclass(frozen=True)
class Family:
    """A published family of LVLMs and its chat format.

    Attributes:
        name: `mantis` or `llava-med`.
        vision: `model_type` of the vision tower's configuration.
        text: `model_type` of the decoder's configuration.
        slot: (index from 1, content) -> the content between the markers of an image, such as `(image 1: CONTENT)`.
        write: (turns, image count) -> segments; call `render`, which checks its input.
        bos: Token that starts a conversation; it is part of the rendered text.
        eos: Token that ends an answer.
        pad: Padding token.
        control: Further special tokens of the format.
        phrases: Constant strings of the format that a tokenizer trained for it encodes as one token.
        stop: Tokens that end generation.
    """

    name: str
    vision: str
    text: str
    slot: Callable[[int, str], str]
    write: Callable[[Sequence[Turn], int], list[Segment]]
    bos: str
    eos: str
    pad: str
    control: tuple[str, ...]
    phrases: tuple[str, ...]
    stop: tuple[str, ...]

    @property
    def special(self) -> tuple[str, ...]:
        """Every special token that the format writes, padding first."""
        return tuple(dict.fromkeys((self.pad, self.bos, self.eos, *self.control, IMAGE)))

    @property
    def reserved(self) -> tuple[str, ...]:
        """What no question and no answer may contain: `special`, and what would end the answer."""
        return tuple(dict.fromkeys((*self.special, *self.stop)))

    def render(self, turns: Sequence[Turn], images: int) -> list[Segment]:
        """Render a conversation whose first turn shows `images` images, each as one `<image>`.

        With 0 images the markers are left out as well: that is the blind probe.

        Args:
            turns: At least one; only the last may have no answer, which makes the text a prompt for generation.
            images: Number of images before the first question.

        Raises:
            UserError: No turn, a missing answer before the last turn, or a reserved token in a question or an answer.
        """
        if not turns or any(turn.answer is None for turn in turns[:-1]):
            raise UserError("a conversation needs a turn, and every turn but the last needs its answer")
        for turn in turns:
            inside = [token for token in self.reserved if token in f"{turn.question}\0{turn.answer or ''}"]
            if inside:
                raise UserError(
                    f"{RESERVED} {', '.join(inside)}",
                    reason=f"the chat format of {self.name} reserves it: the conversation would be misread",
                    fix="remove it from the text; images are given apart from the text",
                )
        return self.write(turns, images)

    @cached_property
    def chat_template(self) -> str:
        """The same format as a Jinja template, for tools that render chats themselves: transformers, TRL, vLLM."""
        return (resources.files("medmim.lvlm") / "templates" / f"{self.name}.jinja").read_text("utf-8")

    @cached_property
    def template_digest(self) -> str:
        """Digest of the format: what it writes, and what ends an answer.

        Zero to three images, one or two turns, the last one answered or not.
        """
        turns = [Turn("question 1", "answer 1"), Turn("question 2", "answer 2")]
        asked = [turns[:1], turns, [Turn("question 1")], [turns[0], Turn("question 2")]]
        written = [self.write(conversation, images) for images in range(4) for conversation in asked]
        texts = [f"{int(s.trained)}{s.text}" for segments in written for s in (*segments, Segment(""))]
        return digest_of([*texts, *self.special, "", *self.stop])

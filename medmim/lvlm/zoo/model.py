"""Checkpoints of the zoo's classes: load them, and write a question as they read it.

Generation, likelihood and the admission test use the same few functions:

    read(model, question) -> Row       tokens and pixels of one question alone
    extended(row, tokens) -> Row       with the begin of an answer
    batch(model, rows) -> arguments    of the model's `generate` and `forward`
"""

import copy
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import hints, store
from medmim.errors import UserError, require
from medmim.lvlm import adapters, checkpoint, llava, memory, saving, soundness
from medmim.lvlm.ask import Question, refusal
from medmim.lvlm.family import RESERVED
from medmim.lvlm.zoo import processors
from medmim.lvlm.zoo.adapter import PER_TOKEN, Adapter, Asking, Row, as_stated
from medmim.lvlm.zoo.entry import adapter_of, asking_of
from medmim.lvlm.zoo.llava import LLAVA
from medmim.sample import digest_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Model:
    """A loaded model of a class of the zoo.

    Attributes:
        model: Of `AutoModelForImageTextToText`, in eval mode.
        processor: Its own, without the video part.
        adapter: How it is given images.
        asking: How it is asked.
        path: Folder that it was loaded from.
    """

    model: Any
    processor: Any
    adapter: Adapter
    asking: Asking
    path: Path

    def __post_init__(self) -> None:
        """Let threads read with its tokenizer: it refuses to change whether it pads while one does."""
        from medmim.lvlm.encode import backend  # with numpy, which `--help` does not wait for

        backend(self.tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The fast tokenizer."""
        return self.processor.tokenizer

    @property
    def config(self) -> Any:
        """Its configuration."""
        return self.model.config

    @cached_property
    def digest(self) -> str:
        """Content digest of its folder."""
        return checkpoint.digest(self.path)

    @cached_property
    def template_digest(self) -> str:
        """See the function `template_digest`."""
        return _digest(self.processor.chat_template, self.asking)

    @cached_property
    def inference(self) -> tuple[str, ...]:
        """As `llava.Lvlm.inference`; `template_digest` stands for the chat format and the pixel budget."""
        reader = self.processor.image_processor
        settings = digest_of([json.dumps(reader.to_dict(), sort_keys=True, default=str)])
        return (
            llava.kind_of(self.model.device),
            llava.dtype_name(self.model.dtype),
            f"{type(reader).__name__} {settings}",
            self.template_digest,
        )

    @cached_property
    def padding(self) -> Any:
        """The processor with a tokenizer of its own, which pads: see `__post_init__`."""
        own = copy.copy(self.processor)
        own.tokenizer = copy.deepcopy(self.tokenizer)
        return own

    @cached_property
    def stop(self) -> list[int]:
        """Ids of the tokens that end an answer: those of generation_config.json and those of the zoo."""
        known = self.tokenizer.get_vocab()
        given = self.model.generation_config.eos_token_id
        own = [] if given is None else [given] if isinstance(given, int) else list(given)
        return list(dict.fromkeys([*own, *(known[token] for token in self.asking.stop if token in known)]))

    @cached_property
    def reserved(self) -> tuple[str, ...]:
        """The special tokens, which no question may contain."""
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple(sorted({token.content for token in added if token.special}))


def model_type(where: Path | store.Artifact) -> str:
    """The `model_type` in the config.json of a checkpoint; empty where there is none.

    Raises:
        UserError: The file is something else, or the store does not answer.
    """
    found = _config(where).get("model_type")
    return found if isinstance(found, str) else ""


def no_model(where: Path | store.Artifact, ref: object) -> UserError:
    """The error of what has no `model_type`.

    Args:
        where: The checkpoint.
        ref: What it is called.
    """
    text = checkpoint.config_text(where)
    reason = "it has no config.json" if text is None else "its config.json names no model_type"
    with suppress(RecursionError):
        try:
            json.loads(text or "{}")
        except ValueError as error:
            reason = f"its config.json cannot be read: {error}"
    return UserError(f"{ref} is not a model: {reason}", fix="give the folder or URI of a whole checkpoint")


def _config(where: Path | store.Artifact) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        found = json.loads(checkpoint.config_text(where) or "{}")
        return found if isinstance(found, dict) else {}
    return {}


def _config_part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def is_ours(where: Path | store.Artifact) -> bool:
    """Whether a checkpoint is of one of our families, which `checkpoint` reads."""
    config = _config(where)
    towers = tuple(_config_part(config, part).get("model_type") for part in ("vision_config", "text_config"))
    ours = any(towers == (family.vision, family.text) for family in checkpoint.FAMILIES)
    return config.get("model_type") == "llava" and ours


def refuse_unusable(where: Path | store.Artifact) -> None:
    """Refuse a checkpoint that cannot be asked as it is, before its weights are read.

    Raises:
        UserError: Its class is not proven, with the command that says what is wrong with it; it is adapters without
            their base; or it has no chat template.
    """
    kind, path = model_type(where), where if isinstance(where, Path) else where.uri
    if adapter_of(kind) is None:
        raise UserError(
            f"{path} is a checkpoint of model_type '{kind}', which is not proven",
            reason="its answers in a batch may be others than alone, and its images may be read as an unordered set",
            fix=f"`{hints.command('zoo', 'check', str(path))}` tries it; `{hints.command('zoo', 'list')}` shows others",
        )
    if adapters.are_in(where):
        raise UserError(
            f"{path} is adapters of a {kind} model, without the weights of their base",
            fix="merge them where they were trained (`merge_and_unload` of peft), and give the whole checkpoint",
        )
    processors.require_template(where)


def template_digest(where: Path | store.Artifact) -> str:
    """Digest of what a checkpoint is asked with: chat template, pixel budget, image backend, form of several images.

    Raises:
        UserError: It has no chat template.
    """
    return _digest(processors.require_template(where), asking_of(model_type(where)))


def _digest(template: str, asking: Asking) -> str:
    return digest_of([template, json.dumps(asdict(asking), sort_keys=True)])


def chat_template_sha256(model: Model) -> str:
    """What `Entry.template` holds: the SHA-256 of the chat template alone."""
    return hashlib.sha256(model.processor.chat_template.encode()).hexdigest()


def load(path: Path, device: str = "auto", dtype: Any = None, unproven: bool = False) -> Model:
    """Load a checkpoint of a class of the zoo.

    Args:
        path: Folder with config, safetensors, tokenizer, processor and chat template.
        device: `auto` is the GPU where there is one.
        dtype: Torch dtype of the weights; by default bf16 on a GPU and fp32 on a CPU.
        unproven: Whether to take any class of transformers, to examine it.

    Raises:
        UserError: A missing or damaged file, a class that is not proven, or weights that are missing, cut off, not
            finite, do not match, or do not fit into the memory.
        Unavailable: A file cannot be read for now.
    """
    kind = model_type(path)
    if not kind:
        raise no_model(path, path)
    adapter = adapter_of(kind)
    if not unproven:
        refuse_unusable(path)
    soundness.check_weights(path)
    transformers = llava.quiet_transformers()
    device, dtype = llava.device_and_dtype(device, dtype)
    with llava.reading(path, kind):
        processor = processors.read(path, kind)
        model, report = transformers.AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **llava.placement(device),
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{path} lacks {len(missing)} weights", problems=missing, fix="give a whole checkpoint")
    with memory.reporting(*llava.in_words(path)):
        model = model.to(device).eval()
    if soundness.not_finite(model):
        raise soundness.not_finite_error(path, path, dtype)
    return Model(model, processor, adapter or _GENERIC, asking_of(kind), path)


def load_in_fp32(path: Path, device: str = "auto") -> Model:
    """A checkpoint of any class as the admission test takes it; errors as `load`.

    One of our families has the processor that it is saved with: the format of the family as a chat template.
    """
    torch = require("torch", "finetune")
    if not is_ours(path):
        return load(path, device, torch.float32, unproven=True)
    lvlm = llava.load(path, device, torch.float32)
    processor = saving.processor_of(lvlm.config, lvlm.tokenizer, lvlm.image_processor, lvlm.family)
    return Model(lvlm.model, processor, LLAVA, Asking(stop=lvlm.family.stop), path)


def save(model: Model, folder: Path) -> None:
    """Save a model so that `load` and transformers can read it."""
    save_parts(model.model, model.processor, folder)


def save_parts(model: Any, processor: Any, folder: Path) -> None:
    """Save a model of transformers and its processor."""
    with redirect_stdout(sys.stderr):  # transformers imports DeepSpeed here, whose log goes where results go
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def context_length(model: Model) -> int:
    """Positions that the decoder was trained with, for images, question and answer together."""
    return int(model.config.get_text_config().max_position_embeddings)


def conversation(model: Model, question: Question) -> list[dict[str, Any]]:
    """A question as the chat template takes it: its images in order, then its text."""
    content: list[dict[str, Any]] = []
    several = len(question.images) > 1
    for i, image in enumerate(question.images, 1):
        before, after = (model.asking.before.format(i=i), model.asking.after) if several else ("", "")
        content += [{"type": "text", "text": before}] if before else []
        content.append({"type": "image", "image": image})
        content += [{"type": "text", "text": after}] if after else []
    return [{"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}]


@contextmanager
def _written_by_template() -> Iterator[None]:
    """Raise what a chat template fails with as its own error; a TypeError is one that takes texts alone.

    Raises:
        UserError: It is broken, or refuses the conversation.
    """
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, TypeError) as error:
        raise UserError(
            f"the chat template cannot write the question: {type(error).__name__}: {error}",
            fix="take the chat template from the place where the checkpoint was published",
        ) from error


def rendered(model: Model, question: Question) -> str:
    """The prompt as the chat template writes it, an image one placeholder.

    Raises:
        UserError: The chat template is broken, or refuses the conversation.
    """
    with _written_by_template():
        (text,) = model.processor.apply_chat_template([conversation(model, question)], add_generation_prompt=True)
    return str(text)


def answered(model: Model, question: Question, answer: str) -> str:
    """What follows `rendered` where a question has an answer, up to the token that ends it.

    As the chat template writes it where that only adds to the prompt; some write finished answers in another way.
    """
    turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    prompt = rendered(model, question)
    with _written_by_template():
        (text,) = model.processor.apply_chat_template(
            [[*conversation(model, question), turn]], add_generation_prompt=False
        )
    ends: list[str] = model.tokenizer.convert_ids_to_tokens(model.stop)
    if text.startswith(prompt) and answer in (rest := text[len(prompt) :]):
        done = rest.index(answer) + len(answer)
        begins = [(rest.find(end, done), end) for end in ends if end in rest[done:]]
        if begins:
            at, end = min(begins)
            return str(rest[: at + len(end)])
    return answer + (ends[-1] if ends else "")


def refuse(model: Model, question: Question) -> None:
    """Refuse a question that a model cannot be asked as it is meant.

    Raises:
        UserError: It is no text, holds a special token, or shows more images than the model takes: none is left out.
    """
    if reason := refusal(question):
        raise UserError(reason)
    if inside := [token for token in model.reserved if token in question.prompt]:
        raise UserError(
            f"{RESERVED} {', '.join(inside)}",
            reason="the chat format reserves it: the conversation would be misread",
            fix="remove it from the text; images are given apart from the text",
        )
    most = model.asking.most
    if most is not None and len(question.images) > most:
        raise UserError(
            f"the question shows {len(question.images)} images, and the model takes {most}",
            reason="an answer to the first ones would be scored as one to all of them",
            fix="bench it on questions with one image, or take a model for several",
        )


def read(model: Model, question: Question) -> Row:
    """A question as the model reads it alone.

    Raises:
        UserError: As `refuse` does, or the chat template rejects the question, or the processor an image.
    """
    refuse(model, question)
    try:
        read = _processed(model, model.processor, [question], padding=False)
    except (ValueError, ArithmeticError, OSError) as error:  # a processor's own words for sizes that it cannot take
        raise UserError(f"the processor rejects the question or an image: {error}") from None
    tokens = {name: read[name][0] for name in PER_TOKEN if name in read}
    return Row(question, tokens, {name: value for name, value in read.items() if name not in PER_TOKEN})


def cut(row: Row, tokens: int) -> Row:
    """A row without its last tokens."""
    return replace(row, tokens={name: values[: len(row) - tokens] for name, values in row.tokens.items()})


def extended(row: Row, ids: Sequence[int]) -> Row:
    """A row with further tokens, of text."""
    import torch

    def added(name: str) -> Sequence[int]:
        return ids if name == "input_ids" else [int(name == "attention_mask")] * len(ids)

    tokens = {
        name: torch.cat([values, torch.tensor(added(name), dtype=values.dtype)]) for name, values in row.tokens.items()
    }
    return replace(row, tokens=tokens)


def settings(model: Model, images: int) -> dict[str, Any]:
    """The arguments of the image processor for a question with so many images."""
    return model.adapter.settings(model.processor, model.asking.pixels, images)


def _processed(model: Model, processor: Any, questions: Sequence[Question], **text: Any) -> Mapping[str, Any]:
    images = max(len(question.images) for question in questions)
    conversations = [conversation(model, question) for question in questions]
    with _written_by_template():
        read: Mapping[str, Any] = processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"text_kwargs": text, "images_kwargs": settings(model, images)},
        )
    return read


def batch(model: Model, rows: Sequence[Row]) -> "dict[str, Tensor]":
    """The arguments of `generate` and `forward` for some questions, on the model's device."""
    made = model.adapter.batch(model, rows)
    dtype = model.model.dtype
    return {
        name: value.to(model.model.device, dtype if value.is_floating_point() else None) for name, value in made.items()
    }


def _as_a_whole(model: Model, rows: Sequence[Row]) -> "dict[str, Tensor]":
    questions = [row.question for row in rows]
    return dict(_processed(model, model.padding, questions, padding=True, padding_side="left"))


# For a class that nobody has written an adapter for: its processor makes the batch, and nothing counts its tokens.
_GENERIC = Adapter("none", (), as_stated, None, _as_a_whole)

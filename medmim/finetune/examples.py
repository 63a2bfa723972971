"""Tokenizes the train split, and dev items, once for all workers; samples that cannot be used are quarantined.

The file that workers share is one safetensors, which they map: 83,200 samples take 120 MB, once for all workers of a
node. An image is one token in it; `batch` makes 728 of it.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmim import progress, shards, store
from medmim.errors import UserError
from medmim.lvlm import family, llava
from medmim.lvlm.encode import Encoded, Options, Reader, encode_all, options, tokens_per_image
from medmim.lvlm.family import Turn
from medmim.sample import BadRow, Sample

_FORMAT = 2  # of the file; the first held every image token, and labels beside the ids
_CHOICES = {"tokens": "options", "right": "right", "back": "option_back", "offsets": "option_offsets"}
_CHUNK = 1000  # samples that are tokenized at once
_NAMED = 5  # samples that are too long and named in the error
# how the reasons of quarantined rows begin
_IMAGE, _TOO_LONG, _NO_ANSWER = "image", "longer than ", "nothing to train on"
_MAX_TOKENS = "finetune.max_tokens"
# the limits of a base on a sample, as text_config names them
_CONTEXT = {"max_position_embeddings": "the context of the base", "sliding_window": "the sliding window of the base"}
_FIXES = {
    _IMAGE: "fix the images",
    f"{_TOO_LONG}{_MAX_TOKENS}": f"raise {_MAX_TOKENS}",
    **{f"{_TOO_LONG}{name}": "shorten these samples, or take a base that reads more" for name in _CONTEXT.values()},
    _NO_ANSWER: "give these rows an answer",
    family.RESERVED: "remove that special token from the text: the chat format of this base reserves it",
}


@dataclass(frozen=True, eq=False)
class Texts:
    """Strings in one array: no Python object for each."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @staticmethod
    def of(texts: Iterable[str]) -> "Texts":
        """The strings as one array."""
        pieces = [text.encode("utf-8", "surrogatepass") for text in texts]
        return Texts(np.frombuffer(b"".join(pieces), np.uint8), _offsets([len(piece) for piece in pieces]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        begin, end = self.offsets[i], self.offsets[i + 1]
        return self.data[begin:end].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True, eq=False)
class Choices:
    """`Options` of samples in arrays; those of sample `i` are at `offsets[i]:offsets[i + 1]` of `tokens` and `right`.

    Attributes:
        tokens: int32.
        right: bool.
        back: One of each sample, int64.
        offsets: int64, one more than samples; a sample without options has none.
    """

    tokens: NDArray[np.int32]
    right: NDArray[np.bool_]
    back: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @staticmethod
    def of(found: Sequence[Options | None]) -> "Choices":
        """The options as arrays."""
        some = [one for one in found if one is not None]
        return Choices(
            np.concatenate([np.zeros(0, np.int32), *(one.tokens for one in some)]),
            np.concatenate([np.zeros(0, np.bool_), *(one.right for one in some)]),
            np.array([0 if one is None else one.back for one in found], np.int64),
            _offsets([0 if one is None else len(one.tokens) for one in found]),
        )

    def __getitem__(self, i: int) -> Options | None:
        begin, end = self.offsets[i], self.offsets[i + 1]
        return Options(int(self.back[i]), self.tokens[begin:end], self.right[begin:end]) if end > begin else None


@dataclass(frozen=True, eq=False)
class Examples:
    """Tokenized samples; sample `i` is at `offsets[i]:offsets[i + 1]` of `tokens`, and likewise for its images.

    Attributes:
        tokens: Token ids, int32, each `<image>` once.
        trained: Which of `tokens` the loss is taken over, bool.
        offsets: int64, one more than samples.
        images: Indices into `names`, int32.
        image_offsets: int64, one more than samples.
        names: Ids of the images, each once.
        ids: Ids of the samples.
        image_token: Id of `<image>`.
        tokens_per_image: Decoder positions that an image takes.
        choices: What is compared to choose an option; None where nothing is.
    """

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    images: NDArray[np.int32]
    image_offsets: NDArray[np.int64]
    names: Texts
    ids: Texts
    image_token: int
    tokens_per_image: int
    choices: Choices | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Encoded:
        begin, end = self.offsets[i], self.offsets[i + 1]
        images = int(self.image_offsets[i + 1] - self.image_offsets[i])
        options = None if self.choices is None else self.choices[i]
        return Encoded(
            self.tokens[begin:end], self.trained[begin:end], images, self.image_token, self.tokens_per_image, options
        )

    def images_of(self, i: int) -> list[str]:
        """Ids of the images of a sample, in the order of its prompt."""
        return [self.names[name] for name in self.images[self.image_offsets[i] : self.image_offsets[i + 1]]]

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each sample, all image tokens included."""
        return [len(self[i]) for i in range(len(self))]

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        from safetensors.numpy import save_file

        tensors: dict[str, NDArray[Any]] = {
            "tokens": self.tokens,
            "trained": self.trained,
            "offsets": self.offsets,
            "images": self.images,
            "image_offsets": self.image_offsets,
            "names": self.names.data,
            "name_offsets": self.names.offsets,
            "ids": self.ids.data,
            "id_offsets": self.ids.offsets,
        }
        if self.choices is not None:
            tensors |= {name: getattr(self.choices, key) for key, name in _CHOICES.items()}
        # one entry: safetensors writes several in any order, and equal examples are equal bytes
        facts = [_FORMAT, self.image_token, self.tokens_per_image]
        part = path.with_name(f"{path.name}.part")
        save_file(tensors, part, metadata={"examples": json.dumps(facts)})
        part.replace(path)

    @staticmethod
    def load(path: Path) -> "Examples":
        """Map a file that `save` wrote: nothing is read before it is needed, and workers share the pages.

        Raises:
            UserError: Another version of medmim wrote it.
        """
        from safetensors import safe_open

        with safe_open(path, "pt") as file:  # of all frameworks, torch's is the one that maps the file
            written, *facts = json.loads((file.metadata() or {}).get("examples", "[0]"))
            if written != _FORMAT:
                raise UserError(
                    f"{path} holds samples in another layout",
                    reason="another version of medmim prepared them",
                    fix=f"delete {path.parent} and run the same command again",
                )
            tokens, trained, offsets, images, image_offsets, names, name_offsets, ids, id_offsets = (
                file.get_tensor(name).numpy()
                for name in (
                    "tokens", "trained", "offsets", "images", "image_offsets", "names", "name_offsets", "ids",
                    "id_offsets",
                )
            )  # fmt: skip
            choices = None
            if set(_CHOICES.values()) <= set(file.keys()):
                choices = Choices(**{key: file.get_tensor(name).numpy() for key, name in _CHOICES.items()})
        image_token, tokens_per_image = facts
        return Examples(
            tokens, trained, offsets, images, image_offsets, Texts(names, name_offsets), Texts(ids, id_offsets),
            image_token, tokens_per_image, choices,
        )  # fmt: skip


def prepare(
    base: Path, data: Path, max_tokens: int, max_bad_fraction: float, stored: store.Artifact | None = None
) -> tuple[Examples, list[BadRow]]:
    """Tokenize the train split of a data set; neither weights nor pixels are read.

    That an image decodes is not checked again: the build has decoded each and written it anew, and the data set's
    digest is checked where it is fetched. One that does not decode all the same ends the training with its name.

    Args:
        base: Folder of the base; its weights need not be in it.
        data: Folder of the data set; the images need not be in it where `stored` is given.
        max_tokens: Tokens of one row; a longer sample is quarantined, as is one that the base cannot read whole.
        max_bad_fraction: Largest share of quarantined rows.
        stored: The data set in its store: there the ids of the images are read where `data` has no images.

    Returns:
        The samples that can be trained on, and the quarantined rows with their reasons.

    Raises:
        UserError: Base or data set cannot be read, there is no train row, or too many are quarantined.
    """
    samples = shards.Samples(data, "train")
    if not samples:
        raise UserError(f"{data} has no train rows", fix="lower data.test_fraction and data.dev_fraction, build again")
    images = _image_ids(data, stored) if samples.show_images() else ()
    examples, bad = tokenize(llava.load_text(base), samples, images, max_tokens)
    refuse_too_many_bad(bad, len(samples), max_bad_fraction)
    return examples, bad


def _image_ids(data: Path, stored: store.Artifact | None) -> Collection[str]:
    if stored is None or (data / "images").is_dir():
        return shards.Images(data)
    sizes = {name: facts["bytes"] for name, facts in stored.files.items()}
    with store.ranged(stored) as read:
        return shards.image_ids(stored.uri, sizes, read)


def prepare_dev(
    base: Path,
    data: Path,
    max_tokens: int,
    max_bad_fraction: float,
    items: int,
    seed: int,
    stored: store.Artifact | None = None,
) -> tuple[Examples | None, list[BadRow]]:
    """Tokenize dev items, and what tells their options apart; the whole dev split is checked like the train split.

    Args:
        base: Folder of the base.
        data: Folder of the data set.
        max_tokens: As in `prepare`.
        max_bad_fraction: Likewise, of the dev split.
        items: The most dev items; see `chosen`.
        seed: Decides which.
        stored: As in `prepare`.

    Returns:
        The items, None where the data set has no dev split, and the quarantined rows of the whole split.

    Raises:
        UserError: As `prepare` does.
    """
    samples = shards.Samples(data, "dev")
    if not samples or not items:
        return None, []
    reader = llava.load_text(base)
    images: Collection[str] = _image_ids(data, stored) if samples.show_images() else ()
    _, bad = tokenize(reader, samples, images, max_tokens, "dev")
    refuse_too_many_bad(bad, len(samples), max_bad_fraction, "dev")
    unusable = {row.row for row in bad}
    usable = [sample for row, sample in enumerate(samples) if row not in unusable]
    of_training = [usable[i] for i in chosen([sample.ability for sample in usable], items, seed)]
    examples, _ = tokenize(reader, of_training, images, max_tokens, "dev")
    found = [_options(reader, sample, examples[i]) for i, sample in enumerate(of_training)]
    return replace(examples, choices=Choices.of(found)), bad


def chosen(abilities: Sequence[str], items: int, seed: int) -> list[int]:
    """Indices of `items` samples, drawn from all abilities in equal numbers as far as these go; in ascending order."""
    drawn: dict[str, int] = defaultdict(int)
    turns = []
    for i in np.random.default_rng([seed, len(abilities)]).permutation(len(abilities)).tolist():
        turns.append((drawn[abilities[i]], abilities[i], i))
        drawn[abilities[i]] += 1
    return sorted(i for _, _, i in sorted(turns)[:items])


def _options(reader: Reader, sample: Sample, right: Encoded) -> Options | None:
    if not sample.choices:
        return None
    conversations = [([Turn(sample.prompt, answer)], len(sample.images)) for answer in sample.choices]
    answers = [one for one in encode_all(reader, conversations) if not isinstance(one, UserError)]
    is_right = [i in sample.gold for i in range(len(sample.choices))]
    return options(right, answers, is_right) if len(answers) == len(is_right) else None


def tokenize(
    reader: Reader, samples: Collection[Sample], images: Collection[str], max_tokens: int, split: str = "train"
) -> tuple[Examples, list[BadRow]]:
    """Tokenize samples, and check that each of their images is in the data set.

    Args:
        reader: The base, with or without its weights.
        samples: The samples of a split; iterated once, and not kept.
        images: Ids of the images of the data set; nothing else of them is used.
        max_tokens: Tokens of one row; a longer sample is quarantined, as is one that the base cannot read whole.
        split: Names the file of a quarantined row.

    Returns:
        The samples that can be trained on, and the quarantined rows with their reasons.
    """
    tokens: list[NDArray[np.int32]] = []
    trained: list[NDArray[np.bool_]] = []
    lengths: list[int] = []
    counts: list[int] = []
    shown: list[int] = []
    ids: list[str] = []
    names: dict[str, int] = {}
    bad: list[BadRow] = []
    bounds = limits(reader.config, max_tokens)
    with progress.bar("tokens", len(samples), "samples") as bar:
        for row, chunk in _chunks(samples):
            found = [_usable(one, bounds) for one in _encoded(reader, chunk, images)]
            kept = [(s, one) for s, one in zip(chunk, found, strict=True) if not isinstance(one, str)]
            bad += [
                BadRow(split, row + i, sample.id, one)
                for i, (sample, one) in enumerate(zip(chunk, found, strict=True))
                if isinstance(one, str)
            ]
            if kept:
                tokens.append(np.concatenate([one.tokens for _, one in kept]))
                trained.append(np.concatenate([one.trained for _, one in kept]))
            lengths += [len(one.tokens) for _, one in kept]
            counts += [len(sample.images) for sample, _ in kept]
            shown += [names.setdefault(name, len(names)) for sample, _ in kept for name in sample.images]
            ids += [sample.id for sample, _ in kept]
            bar.add(len(chunk))
    examples = Examples(
        np.concatenate(tokens) if tokens else np.zeros(0, np.int32),
        np.concatenate(trained) if trained else np.zeros(0, np.bool_),
        _offsets(lengths),
        np.array(shown, np.int32),
        _offsets(counts),
        Texts.of(names),
        Texts.of(ids),
        reader.config.image_token_id,
        tokens_per_image(reader.config),
    )
    return examples, bad


def refuse_too_many_bad(bad: Sequence[BadRow], total: int, limit: float, split: str = "train") -> None:
    """Raise a UserError when more than the share `limit` of the rows was quarantined, or nothing is left."""
    if not bad or (len(bad) <= limit * total and len(bad) < total):
        return
    reasons: dict[str, list[BadRow]] = defaultdict(list)
    for row in bad:
        reasons[group(row.reason)].append(row)
    fixes = dict.fromkeys(fix for reason in reasons for begin, fix in _FIXES.items() if reason.startswith(begin))
    raise UserError(
        f"{len(bad)} of {total} {split} rows cannot be {'trained' if split == 'train' else 'validated'} on",
        reason="no row is left" if len(bad) == total else f"more than max_bad_fraction ({limit:.1%}) are quarantined",
        fix="; ".join([*fixes, *(["or raise data.max_bad_fraction"] if len(bad) < total else [])]),
        problems=[
            f"{len(rows)} rows: {reason}{_examples(reason, rows)}"
            for reason, rows in sorted(reasons.items(), key=lambda entry: -len(entry[1]))
        ],
    )


def group(reason: str) -> str:
    """The reason of a quarantined row without what is its own: rows are counted by it."""
    return reason.partition(": ")[0] if reason.startswith(_TOO_LONG) else reason


def _examples(reason: str, rows: Sequence[BadRow]) -> str:
    """The first samples that are too long, each with its length."""
    if not reason.startswith(_TOO_LONG):
        return ""
    named = [f"{row.key} with {row.reason.partition(': ')[2]}" for row in rows[:_NAMED]]
    more = [f"{len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    return f": {', '.join([*named, *more])}"


def _chunks(samples: Iterable[Sample]) -> Iterator[tuple[int, list[Sample]]]:
    """Chunks of the samples, each with the number of its first row."""
    left, row = iter(samples), 0
    while chunk := list(islice(left, _CHUNK)):
        yield row, chunk
        row += len(chunk)


def _encoded(reader: Reader, chunk: Sequence[Sample], images: Collection[str]) -> Iterator[Encoded | str]:
    """The tokens of each sample, or the reason to quarantine it."""
    absent = [next((name for name in sample.images if name not in images), None) for sample in chunk]
    found = encode_all(reader, [([Turn(sample.prompt, sample.target)], len(sample.images)) for sample in chunk])
    for name, one in zip(absent, found, strict=True):
        if name is not None:
            yield f"{_IMAGE} is not in the data set"
        else:
            yield one.fact if isinstance(one, UserError) else one


def limits(config: Any, max_tokens: int) -> dict[str, int]:
    """What bounds the tokens of a sample: name -> tokens; all of them hold.

    Beyond its context a base has never seen a position, and packed attention has no sliding window. They come first:
    where a sample exceeds one of them, a larger `finetune.max_tokens` would not help.

    Args:
        config: A `LlavaConfig`.
        max_tokens: Tokens of one row.
    """
    found = {name: getattr(config.text_config, key, None) for key, name in _CONTEXT.items()}
    return {**{name: tokens for name, tokens in found.items() if tokens}, _MAX_TOKENS: max_tokens}


def _usable(one: Encoded | str, bounds: Mapping[str, int]) -> Encoded | str:
    if isinstance(one, str):
        return one
    for name, tokens in bounds.items():
        if len(one) > tokens:
            return f"{_TOO_LONG}{name} ({tokens}): {len(one):,} tokens"
    return one if one.trained[1:].any() else _NO_ANSWER


def _offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Where each of some pieces begins, and the end of the last."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)

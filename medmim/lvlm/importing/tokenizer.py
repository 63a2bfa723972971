"""The tokenizer of a checkpoint from its own files, with the special tokens of its family."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import sniff
from medmim.errors import UserError
from medmim.lvlm import llava
from medmim.lvlm.family import Family
from medmim.lvlm.importing import layouts
from medmim.sample import IMAGE

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_CONTROL, _UNKNOWN, _USER_DEFINED = 3, 2, 4  # SentencePiece's types of a piece
_SPACE = "\u2581"
_ONE_SOURCE = "take all tokenizer files from the same checkpoint"


def read(folder: Path, family: Family, add: bool) -> tuple[Any, int]:
    """Read the tokenizer with the rules of its own file by which a text is split.

    transformers 5 would build its own rules from the class that tokenizer_config.json names; those of the file are what
    the model was trained with. What the file does around a text is left out: Llama 3's puts `<|begin_of_text|>` before
    it, which the chat format has already, and some pad or cut.

    Args:
        folder: With `tokenizer.json`, or SentencePiece's `tokenizer.model`.
        family: Its special tokens must be there.
        add: Whether `<image>` and the padding token are added where they are missing, in this order: LLaVA-Med cut
            prompts at `<image>` before it tokenized, and never padded with a token of its own.

    Returns:
        A fast tokenizer, and the number of its tokens without the added ones.

    Raises:
        UserError: No file, an unreadable one, files that disagree, or special tokens that are missing.
    """
    from tokenizers import AddedToken

    transformers = llava.quiet_transformers()
    tokenizer = _from_file(folder)
    # The chat format writes the first token itself; padding and cutting are for whoever builds a batch.
    tokenizer.post_processor = None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    _add_later(tokenizer, folder)
    own = tokenizer.get_vocab_size()
    for token in (IMAGE, family.pad) if add else ():
        if tokenizer.token_to_id(token) is None:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
    missing = [token for token in family.special if tokenizer.token_to_id(token) is None]
    if missing:
        raise UserError(
            f"the tokenizer of {folder} has no {', '.join(missing)}",
            reason=f"the chat format of {family.name} needs them",
            fix="take the tokenizer's files from the same checkpoint as the weights",
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.pad,
        additional_special_tokens=[*family.control, IMAGE],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    return fast, own


def _add_later(tokenizer: "Tokenizer", folder: Path) -> None:
    """Add the tokens that a slow tokenizer keeps beside its model, by their ids."""
    wanted: dict[int, tuple[AddedToken, Path]] = {}
    for file, index, token in _kept_beside(folder):
        before = wanted.setdefault(index, (token, file))
        if before[0].content != token.content:
            raise UserError(
                f"{file}: token {index} is {token.content} there and {before[0].content} in {before[1].name}",
                fix=_ONE_SOURCE,
            )
        wanted[index] = (token, file)
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for index, (token, file) in sorted(wanted.items()):
        if token.content not in known:
            tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != index:
            raise UserError(
                f"{file}: {token.content} is {index} there and {tokenizer.token_to_id(token.content)} in the tokenizer",
                fix=_ONE_SOURCE,
            )


def _kept_beside(folder: Path) -> Iterator[tuple[Path, int, "AddedToken"]]:
    """(file, id, token) of each added token.

    Older versions of transformers wrote them to added_tokens.json, newer ones to tokenizer_config.json, which also says
    how each is found in a text and therefore comes last.
    """
    old, new = folder / "added_tokens.json", folder / "tokenizer_config.json"
    for content, index in layouts.read_object(old).items():
        yield old, *_token(old, content, index, {})
    entries = layouts.read_object(new).get("added_tokens_decoder") or {}
    if not isinstance(entries, dict):
        raise UserError(f"{new}: added_tokens_decoder is not an object", fix="copy the file again")
    for key, entry in entries.items():
        flags = entry if isinstance(entry, dict) else {}
        yield new, *_token(new, flags.get("content"), int(key) if re.fullmatch("[0-9]{1,9}", key) else key, flags)


def _token(file: Path, content: object, index: object, flags: Mapping[str, object]) -> tuple[int, "AddedToken"]:
    from tokenizers import AddedToken

    if isinstance(content, str) and content.strip() and type(index) is int and index >= 0:
        with suppress(UnicodeEncodeError):
            ways = {name: flags.get(name) is True for name in ("lstrip", "rstrip", "single_word")}
            # a slow tokenizer looks for it in the text as it is, not in the normalized one
            return index, AddedToken(content, normalized=False, special=flags.get("special", True) is True, **ways)
    raise UserError(
        f"{file}: an added token is {content!r} with the id {index!r}",
        reason="a token is a text, and its id a number",
        fix="copy the file again",
    )


def _from_file(folder: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    fast, slow = folder / "tokenizer.json", folder / "tokenizer.model"
    try:
        if fast.is_file():
            return Tokenizer.from_str(sniff.read_text(fast, "a tokenizer in JSON"))
        if slow.is_file():
            if kind := sniff.pointer(slow):
                raise kind.error(slow, "a model of SentencePiece")
            return _from_sentencepiece(slow)
    except (OSError, UserError):
        raise
    except Exception as error:  # tokenizers raises just that, protobuf an error of its own
        raise UserError(
            f"{fast if fast.is_file() else slow} is not a tokenizer",
            reason=str(error).split("\n", 1)[0],
            fix="copy the file again",
        ) from None
    raise UserError(
        f"{folder} has no tokenizer", reason="it has neither tokenizer.json nor tokenizer.model", fix="copy it again"
    )


def _from_sentencepiece(file: Path) -> "Tokenizer":
    """A BPE model of SentencePiece as a fast tokenizer.

    A piece is merged from two others in the order of the pieces, as SentencePiece does it by score; what no piece
    covers becomes bytes. Each text between special tokens starts with a space, as the slow tokenizer of Llama has it.

    Raises:
        UserError: The model changes a text before it splits it.
        ValueError: It is no BPE model.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(file.read_bytes())
    if proto.trainer_spec.model_type != 2:
        raise ValueError("it is not a BPE model of SentencePiece")
    _refuse_normalization(file, proto)
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    plain = [p.piece for p in proto.pieces if p.type == 1]
    by_score = sorted(plain, key=lambda piece: (-proto.pieces[vocabulary[piece]].score, vocabulary[piece]))
    merges = [
        (piece[:cut], piece[cut:])
        for piece in by_score
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    unknown = next((piece.piece for piece in proto.pieces if piece.type == _UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=proto.trainer_spec.byte_fallback)
    )
    steps = [normalizers.Prepend(_SPACE)] if proto.normalizer_spec.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1)]
    )
    special = [p.piece for p in proto.pieces if p.type in (_CONTROL, _UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    tokenizer.add_tokens([AddedToken(p.piece, normalized=False) for p in proto.pieces if p.type == _USER_DEFINED])
    return tokenizer


def _refuse_normalization(file: Path, proto: Any) -> None:
    """Refuse a model with rules that change a text; Llama's and Mistral's have none, so we have no code for them.

    https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto, `NormalizerSpec`.
    """
    spec = proto.normalizer_spec
    problems = []
    if spec.precompiled_charsmap:
        problems.append(
            f"normalizer_spec.precompiled_charsmap: the characters are mapped by {spec.name or 'own rules'}"
        )
    if spec.remove_extra_whitespaces:
        problems.append("normalizer_spec.remove_extra_whitespaces: true")
    if not spec.escape_whitespaces:
        problems.append("normalizer_spec.escape_whitespaces: false")
    if proto.trainer_spec.treat_whitespace_as_suffix:
        problems.append("trainer_spec.treat_whitespace_as_suffix: true")
    if problems:
        raise UserError(
            f"{file} changes a text before it splits it",
            reason="the tokenizers of Llama and Mistral do not, and every prompt would be split in another way than in "
            "the training",
            fix="give the checkpoint with a tokenizer.json, which transformers writes from it: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
            problems=problems,
        )

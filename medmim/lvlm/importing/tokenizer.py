"""The tokenizer of a checkpoint from its own files, with the special tokens of its family."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.lvlm.family import Family
from medmim.lvlm.importing.layouts import refuse_pointer
from medmim.sample import IMAGE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONTROL, _UNKNOWN, _USER_DEFINED = 3, 2, 4  # SentencePiece's types of a piece
_SPACE = "\u2581"


def read(folder: Path, family: Family, add: bool) -> tuple[Any, int]:
    """Read the tokenizer with the rules of its own file.

    transformers 5 would build its own rules from the class that tokenizer_config.json names; those of the file are what
    the model was trained with.

    Args:
        folder: With `tokenizer.json`, or SentencePiece's `tokenizer.model`.
        family: Its special tokens must be there.
        add: Whether `<image>` and the padding token are added where they are missing, in this order: LLaVA-Med cut
            prompts at `<image>` before it tokenized, and never padded with a token of its own.

    Returns:
        A fast tokenizer, and the number of its tokens without the added ones.

    Raises:
        UserError: No file, an unreadable one, or special tokens that are missing.
    """
    from tokenizers import AddedToken

    transformers = checkpoint.quiet_transformers()
    tokenizer = _from_file(folder)
    later = folder / "added_tokens.json"  # those that a slow tokenizer has beside its model
    if later.is_file():
        tokens: dict[str, int] = json.loads(later.read_text("utf-8"))
        for token, index in sorted(tokens.items(), key=lambda item: item[1]):
            if tokenizer.token_to_id(token) is None:
                tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
            if tokenizer.token_to_id(token) != index:
                raise UserError(
                    f"{later}: {token} is {index} there and {tokenizer.token_to_id(token)} in the tokenizer",
                    fix="take all tokenizer files from the same checkpoint",
                )
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


def _from_file(folder: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    fast, slow = folder / "tokenizer.json", folder / "tokenizer.model"
    try:
        for file in (fast, slow):
            if file.is_file():
                refuse_pointer(file)
        if fast.is_file():
            return Tokenizer.from_file(str(fast))
        if slow.is_file():
            return _from_sentencepiece(slow.read_bytes())
    except OSError:
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


def _from_sentencepiece(data: bytes) -> "Tokenizer":
    """A BPE model of SentencePiece as a fast tokenizer.

    A piece is merged from two others in the order of the pieces, as SentencePiece does it by score; what no piece
    covers becomes bytes. Each text between special tokens starts with a space, as the slow tokenizer of Llama has it.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(data)
    if proto.trainer_spec.model_type != 2:
        raise ValueError("it is not a BPE model of SentencePiece")
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

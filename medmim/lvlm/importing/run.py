"""`import_base`: a published checkpoint -> a base in the store, which recipes name by its URI."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medmim import progress, store, terms
from medmim.errors import Unavailable, UserError, from_os_error, wrap_os_errors
from medmim.lvlm import llava, saving, weights
from medmim.lvlm.encode import tokens_per_image
from medmim.lvlm.family import Turn
from medmim.lvlm.importing import convert, layouts, source, tokenizer
from medmim.lvlm.importing.layouts import Layout
from medmim.lvlm.mantis import MANTIS
from medmim.run.lock import locked
from medmim.run.provenance import provenance
from medmim.run.workspace import Workspace
from medmim.sample import IMAGE, digest_of
from medmim.store import Artifact
from medmim.terms import Terms

REVISION = 2
STEP = "import"
Tower = Literal["checkpoint", "stock"]


@dataclass(frozen=True)
class Options:
    """How to read a checkpoint.

    Attributes:
        tower: For LLaVA-Med, whose checkpoint carries a tuned vision tower that its own code does not read: which one.
        clip: The stock CLIP, where config.json does not lead to it: as the checkpoint a folder, `s3://` or a hub name.
        hub: Whether the network may be asked for a hub name.
        allowed: Terms of the checkpoint; those that are known of its name or layout where none are given.
    """

    tower: Tower | None = None
    clip: str | None = None
    hub: bool = False
    allowed: Terms | None = None


def import_base(ref: str, ws: Workspace, options: Options, limit: int | None = None) -> Artifact:
    """Convert a checkpoint and publish it as a model.

    Args:
        ref: A folder, `s3://` or a hub name.
        ws: Its store receives the base.
        options: How to read it.
        limit: Bytes of a weight file. [default: 5 GB]

    Returns:
        The artifact. Its counts: family, layout, parameters, tokens per image, vision tower.

    Raises:
        UserError: Whatever is wrong with the checkpoint, by file and tensor; nothing is published then.
        Unavailable: The store or the Hub does not answer, or another process is importing the same.
    """
    key = digest_of([STEP, str(REVISION), ref, str(options.tower), str(options.clip)])[:16]
    work = ws.home / "work" / f"{STEP}-{key}"
    with wrap_os_errors(f"importing {ref}"):
        work.parent.mkdir(parents=True, exist_ok=True)

        def busy(holder: str) -> UserError:
            return Unavailable(f"{holder} is importing {ref} in {work}", fix="wait for it, or give another --home")

        with locked(work, busy):
            from_hub = source.is_hub_name(ref)  # as `local` decides it
            clip = None
            if options.clip is not None:  # before the checkpoint, which is ten times as large
                by_hand = layouts.clip_lines(options.clip)
                whole = options.tower == "stock"  # else its settings say how large the tower is
                clip = source.local(options.clip, ws, work / "clip", options.hub, by_hand, "give --clip", whole)
            by_hand = source.download_lines(ref, _typed(options))
            folder = source.local(ref, ws, work / "source", options.hub, by_hand)
            out = work / "base"
            shutil.rmtree(out, ignore_errors=True)  # of a process that was killed
            try:
                artifact = _convert(ref, folder, clip, out, ws, options, limit, from_hub)
            finally:
                shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(work, ignore_errors=True)
    return artifact


def _typed(options: Options) -> list[str]:
    """The options as words of the command."""
    words = ["--vision-tower", options.tower] if options.tower else []
    words += ["--clip", options.clip] if options.clip else []
    if options.allowed:
        named = terms.name_of(options.allowed)
        words += ["--terms", named if named in terms.PUBLISHED else "FILE"]
    return words


def _convert(
    ref: str,
    folder: Path,
    clip: Path | None,
    out: Path,
    ws: Workspace,
    options: Options,
    limit: int | None,
    from_hub: bool,
) -> Artifact:
    layout = layouts.layout_of(folder, clip)
    _check_feature_layers(folder, layout.config)
    tower = _tower(layout, options.tower, folder)
    tokens, own = tokenizer.read(folder, layout.family, add=layout.name == "llava_mistral")
    config, rows = layout.config, layout.config.text_config.vocab_size
    if layout.name == "llava_mistral":
        rows = -(-max(rows, len(tokens)) // layouts.ROWS) * layouts.ROWS
        config.image_token_index = tokens.convert_tokens_to_ids(IMAGE)
    _check_tokens(folder, layout, tokens, own)
    planned = convert.plan(convert.find(layout, folder, tower), config, rows)
    size = sum(weight.bytes for weight in planned)
    progress.say(f"{ref}: {layout.family.name}, layout {layout.name}, {size / 2e9:.2f} billion parameters")
    out.mkdir(parents=True)
    store_folder = None if ws.store.startswith("s3://") else Path(ws.store.removeprefix("file://"))
    source.refuse_full_disk(out, store_folder, size)
    for part in (config, config.text_config, config.vision_config):
        part.dtype = "bfloat16"
        if hasattr(part, "quantization_config"):  # the plan has floats alone: how it was loaded, not what it holds
            del part.quantization_config
    config.text_config.pad_token_id = tokens.pad_token_id
    config.image_seq_length = tokens_per_image(config)
    generation = llava.quiet_transformers().GenerationConfig(bos_token_id=tokens.bos_token_id)
    saving.save_settings(out, config, generation, tokens, image_processor(layout, folder), layout.family)
    try:
        llava.check_settings(out)
    except UserError as error:  # `out` is gone when this is read
        fact, reason = (text.replace(str(out), str(folder)) for text in (error.fact, error.reason))
        raise UserError(fact, reason, error.fix, exit_code=error.exit_code) from None
    allowed = options.allowed or _terms(ref if from_hub else None, folder, layout)
    (out / terms.FILE).write_text(allowed.dump(), encoding="utf-8")
    with progress.bar("weights", size, "bytes") as bar:
        try:
            weights.write(out, planned, limit or weights.SHARD_BYTES, bar.add)
        except ValueError as error:
            raise UserError(f"{folder} changed while it was read", reason=str(error), fix="import it again") from None
        except OSError as error:
            raise from_os_error(error, f"writing the converted weights to {out}") from None
    counts = {
        "family": layout.family.name,
        "layout": layout.name,
        "vision_tower": tower,
        "parameters": size // 2,
        "tokens_per_image": tokens_per_image(config),
    }
    made_from = provenance(STEP, REVISION, {}, None, allowed) | {"source": ref, **counts}
    made_from |= {"clip": options.clip} if options.clip else {}
    return store.publish(out, ws.store, "model", counts, made_from)


def _tower(layout: Layout, tower: Tower | None, folder: Path) -> Tower:
    """Which vision tower is read.

    Raises:
        UserError: The choice is open, or cannot be met.
    """
    if layout.name != "llava_mistral":
        if tower == "stock":
            raise UserError(
                f"{folder} has one vision tower, its own",
                reason="only the layout of LLaVA-Med v1.5 leaves a choice",
                fix="leave --vision-tower out",
            )
        return "checkpoint"
    if tower is None:
        raise UserError(
            "which vision tower, that of the checkpoint or stock CLIP?",
            reason="LLaVA-Med v1.5 was published with a tuned tower, but its own code loads stock CLIP over it: the "
            "published scores are those of stock CLIP",
            fix="--vision-tower checkpoint, or --vision-tower stock (with --clip and its CLIP)",
        )
    if tower == "stock" and layout.clip is None:
        named = str(layouts.read_config(folder).get("mm_vision_tower") or "")
        raise UserError(
            f"the stock vision tower {named or next(iter(layouts.CLIPS))} is not at hand",
            reason="config.json only names it",
            fix=layouts.clip_fix(named),
        )
    return tower


def _check_tokens(folder: Path, layout: Layout, tokens: Any, own: int) -> None:
    """Check that the tokenizer is that of the weights.

    Args:
        folder: The checkpoint.
        layout: Its layout; the configuration still has the source's rows.
        tokens: The tokenizer.
        own: Its tokens without the added ones.

    Raises:
        UserError: It is not; says where they differ.
    """
    problems = []
    family, config = layout.family, layout.config
    image, rows = tokens.convert_tokens_to_ids(IMAGE), config.text_config.vocab_size
    if image != config.image_token_index:
        problems.append(f"{IMAGE} is token {image} of the tokenizer and {config.image_token_index} of config.json")
    if layout.name == "llava_mistral":
        stated = layouts.read_config(folder)
        for token, key in ((layout.family.bos, "bos_token_id"), (layout.family.eos, "eos_token_id")):
            if stated.get(key) not in (None, tokens.convert_tokens_to_ids(token)):
                problems.append(
                    f"{token} is token {tokens.convert_tokens_to_ids(token)} of the tokenizer and {stated[key]} "
                    "of config.json"
                )
        if own > rows or rows - own >= layouts.ROWS:  # LLaVA-Med: 32,000 and 32,000
            problems.append(f"{own:,} tokens, but the embedding has {rows:,} rows")
    elif len(tokens) > rows:
        problems.append(f"{len(tokens):,} tokens, but the embedding has {rows:,} rows")
    if problems:
        raise UserError(
            f"tokenizer and model of {folder} disagree",
            reason="every prompt would be misread",
            fix="take config.json and all tokenizer files from the same checkpoint",
            problems=problems,
        )
    # the last thing that reads a prompt: what `encode` will do with it
    written = "".join(segment.text for segment in family.render([Turn("a")], 2))
    ids = tokens.backend_tokenizer.encode(written, add_special_tokens=False).ids
    if ids.count(image) != 2 or ids[0] != tokens.bos_token_id:
        raise UserError(
            f"the tokenizer of {folder} does not split the chat format of {family.name}",
            reason=f"a prompt with two images has {ids.count(image)} image tokens",
            fix="take all tokenizer files from the checkpoint as it was published",
        )


def _check_feature_layers(folder: Path, config: Any) -> None:
    """Check that the vision tower has the layers whose output the projector reads.

    Raises:
        UserError: It has not.
    """
    asked = config.vision_feature_layer
    states = config.vision_config.num_hidden_layers + 1  # the embeddings, and the output of each layer
    if any(not -states <= layer < states for layer in (asked if isinstance(asked, list | tuple) else [asked])):
        raise UserError(
            f"{folder / 'config.json'}: the projector reads layer {asked} of a vision tower of {states - 1} layers",
            reason="every image would be an error",
            fix="take config.json as it was published with these weights",
        )


def image_processor(layout: Layout, folder: Path) -> Any:
    """The image processor that the original code uses, with Pillow.

    LLaVA-Med pads an image to a square with the mean colour before it shrinks it (`image_aspect_ratio: pad`), so that
    nothing is cut off; SigLIP's squeezes it. Mean, deviation and filter are those of the checkpoint's own file.

    Raises:
        UserError: The file is damaged.
    """
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    side = layout.config.vision_config.image_size
    square = {"height": side, "width": side}
    if layout.name == "llava":
        own = _processor_settings(folder)
        if own:
            return _own_processor(folder)
        if layout.family is MANTIS:
            return SiglipImageProcessorPil(size=square, do_convert_rgb=True)
        return LlavaImageProcessorPil(size={"shortest_edge": side}, crop_size=square, do_pad=True)
    own = _processor_settings(layout.clip) if layout.clip else {}
    kept = {key: own[key] for key in ("image_mean", "image_std", "resample", "rescale_factor") if key in own}
    pad = layouts.read_config(folder).get("image_aspect_ratio", "pad") == "pad"
    kind = LlavaImageProcessorPil if pad else CLIPImageProcessorPil
    return kind(size={"shortest_edge": side}, crop_size=square, **({"do_pad": True} if pad else {}), **kept)


def _processor_settings(folder: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        found = layouts.read_object(folder / name)
        inner = found.get("image_processor")
        found = inner if isinstance(inner, dict) else found
        if "image_processor_type" in found or "size" in found:
            return found
    return {}


def _own_processor(folder: Path) -> Any:
    transformers = llava.quiet_transformers()
    try:
        return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"the image processor of {folder} does not load",
            reason=str(error).split("\n", 1)[0],
            fix="copy preprocessor_config.json again",
        ) from None


def _terms(name: str | None, folder: Path, layout: Layout) -> Terms:
    """The terms that the checkpoint brings along or that are known of its name; else unknown.

    Args:
        name: The hub name that it was downloaded by; None for a folder, which may be called anything.
        folder: The checkpoint.
        layout: Its layout.
    """
    file = folder / terms.FILE
    if file.is_file():
        return terms.parse(file.read_bytes(), str(file))
    known = source.TERMS.get(name or "") or ("llava-med" if layout.name == "llava_mistral" else None)
    if known:
        return terms.PUBLISHED[known]
    progress.say("its terms of use are unknown, so nothing is allowed with it: read them, then give --terms")
    return terms.UNKNOWN

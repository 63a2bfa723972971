"""Recipe: the typed YAML that a user edits. Every section is validated at load, all errors at once.

medmim recipe list                  the shipped ones
medmim recipe copy demo mine.yaml   one to edit
medmim recipe explain finetune.lr   what a key means
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from medmim.errors import UserError
from medmim.sample import ABILITIES

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


def _known_ability(name: str) -> str:
    if name not in ABILITIES:
        raise ValueError(f"unknown ability '{name}'; known: {', '.join(ABILITIES)}")
    return name


class Section(BaseModel):
    """A part of the recipe: no unknown keys, no silent conversions, no changes after load."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Data(Section):
    """What the data set is made of."""

    source: Literal["phantom", "published", "covid_chestxray"] = Field(description="where the studies come from")
    root: str | None = Field(
        None, description="folder of the raw data: images, and annotations unless `annotations` is set"
    )
    annotations: str | None = Field(
        None, description="folder of the Med-MIM JSON files, where they lie apart from the images"
    )
    patients: Positive = Field(1500, description="phantom only: how many patients to draw")
    seed: int = Field(0, description="decides patients, split, wording and option order")
    abilities: tuple[Annotated[str, AfterValidator(_known_ability)], ...] = Field(
        ABILITIES, description="which abilities to ask about"
    )
    dev_fraction: Fraction = Field(0.05, description="share of the patients kept for choices")
    test_fraction: Fraction = Field(0.15, description="share of the patients kept for the benchmark")
    max_bad_fraction: Fraction = Field(0.01, description="quarantined rows above this share fail the step")
    rows_only: bool = Field(False, description="do all that needs no pixels, then stop")


class Audit(Section):
    """What train and benchmark may share."""

    max_shared_patients: int = Field(0, ge=0, description="patients that train and test may share")
    max_shared_images: int = Field(0, ge=0, description="images that train and test may share")


class Finetune(Section):
    """How the base is tuned. The defaults are Mantis' published ones where it has them."""

    base: str = Field("tiny-mantis", description="a shipped base, a folder, a store URI or models:/name@alias")
    steps: Positive | None = Field(None, description="optimizer steps; default: `epochs` over the train split")
    epochs: float = Field(1.0, gt=0, description="passes over the train split when `steps` is not given")
    batch_size: Positive = Field(64, description="samples in one optimizer step, over all workers")
    max_tokens: Positive = Field(4096, description="tokens in one packed row; bounds memory")
    packing: bool = Field(True, description="pack samples without padding; exact, see finetune/packing.py")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: block matrices by Muon, the rest AdamW")
    lr: float = Field(1e-5, gt=0, description="peak learning rate (AdamW part)")
    muon_lr: float | None = Field(None, gt=0, description="peak learning rate of the Muon part; default 2 x lr")
    schedule: Literal["cosine", "linear"] = Field(
        "cosine", description="cosine to zero, or constant with a linear tail (`decay_fraction`)"
    )
    decay_fraction: Fraction = Field(0.35, description="linear schedule: share of the steps that decay")
    warmup: Fraction = Field(0.03, description="share of the steps that warm up")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    clip: float = Field(1.0, gt=0, description="gradient norm limit")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the GPU has it, else fp32")
    freeze_vision: bool = Field(True, description="keep the vision tower as the base has it, as Mantis does")
    save_every: Positive = Field(100, description="steps between checkpoints")
    seed: int = Field(0, description="order of the samples")


class Bench(Section):
    """Which questions are asked, and how."""

    tasks: tuple[str, ...] = Field(("held_in", "held_out"), description="which questions to ask")
    probes: tuple[Literal["blind", "grey"], ...] = Field(("blind",), description="what to ask again without pixels")
    limit: Positive | None = Field(None, description="only the first N items: a result that is not comparable")
    batch_size: Positive = Field(32, description="questions asked at once")
    max_new_tokens: Positive = Field(32, description="longest answer")
    resamples: Positive = Field(2000, description="bootstrap draws of patients for the intervals")
    max_bad_fraction: Fraction = Field(0.02, description="engine errors above this share fail the step")


class Register(Section):
    """Where the tuned model is registered."""

    model: str = Field("medmim", pattern=r"^[A-Za-z0-9][\w.-]*$", description="name in the MLflow registry")


class Gate(Section):
    """Which policy decides."""

    policy: str = Field("default", description="a shipped policy or a YAML file")


class Report(Section):
    """What the report shows."""

    examples: int = Field(12, ge=0, description="items shown with their images")


class Platform(Section):
    """Where things run and lie; none of it changes any content but the world size."""

    store: str | None = Field(None, description="artifact store: folder or s3://bucket/prefix; default HOME/store")
    tracking: str | None = Field(None, description="MLflow tracking URI; default SQLite in HOME")
    ray: str = Field("local", description="where Ray runs: `local`, or the address of a running cluster")
    workers: Positive = Field(1, description="training workers")
    threads: Positive | None = Field(None, description="CPU threads a worker uses; default: its share of the cores")


class Recipe(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="names runs, reports and jobs")
    data: Data
    audit: Audit = Audit()
    finetune: Finetune = Finetune()
    bench: Bench = Bench()
    register_: Register = Field(Register(), alias="register")
    gate: Gate = Gate()
    report: Report = Report()
    platform: Platform = Platform()

    def dump(self) -> str:
        """The recipe as canonical JSON: what steps receive and `provenance.json` keeps."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-5` as text; users mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def shipped() -> dict[str, str]:
    """Names of the shipped recipes and their first comment line."""
    found = {}
    for entry in sorted(resources.files("medmim.recipes").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            first = entry.read_text().split("\n", 1)[0]
            found[entry.name.removesuffix(".yaml")] = first.lstrip("# ").strip()
    return found


def read_text(ref: str) -> tuple[str, str]:
    """The YAML of a shipped recipe or a file, and the name to use in messages.

    Raises:
        UserError: Neither a shipped name nor a readable file.
    """
    names = shipped()
    if ref in names:
        return (resources.files("medmim.recipes") / f"{ref}.yaml").read_text(), f"recipe {ref}"
    path = Path(ref)
    if not path.is_file():
        near = difflib.get_close_matches(ref, names, 1)
        raise UserError(
            f"no recipe '{ref}'",
            reason="it is neither a file nor a shipped name",
            fix=(f"did you mean '{near[0]}'? " if near else "") + f"`medmim recipe list` shows: {', '.join(names)}",
        )
    try:
        return path.read_text(), str(path)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file", fix="give a recipe in YAML") from None


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse YAML into a mapping.

    Raises:
        UserError: Broken YAML (with line and column), or something else than a mapping.
    """
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{where} is not valid YAML{at}", reason=str(error.problem)) from None
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML", reason=str(error)) from None
    if not isinstance(loaded, dict):
        raise UserError(f"{where} is not a mapping of keys to values", fix="start from `medmim recipe copy demo FILE`")
    return loaded


def load(ref: str, sets: Sequence[str] = ()) -> Recipe:
    """Load and check a recipe.

    Args:
        ref: A shipped name or a file.
        sets: `key=value` overrides with dotted keys; the value is YAML.

    Raises:
        UserError: Every problem of file and overrides, in one message.
    """
    text, where = read_text(ref)
    values = parse_yaml(text, where)
    for item in sets:
        _override(values, item)
    return validate(values, where)


def validate(values: dict[str, Any], where: str) -> Recipe:
    """Check a mapping against the schema; raises one UserError with every problem."""
    try:
        return Recipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = [_explain(e) for e in error.errors()]
    except (TypeError, ValueError) as error:  # a date or another YAML type that JSON lacks
        problems = [str(error)]
    raise UserError(
        f"{where} has {len(problems)} problem{'s' * (len(problems) != 1)}",
        problems=problems,
        fix="`medmim recipe explain` lists every key with its type and default",
    )


def from_dump(text: str) -> Recipe:
    """Read back what `Recipe.dump` wrote."""
    return Recipe.model_validate_json(text)


def describe(prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Rows of (key, type, default, meaning) for every key that starts with `prefix`.

    Raises:
        UserError: No such key.
    """
    rows = [
        (
            key,
            _type_name(info),
            "required" if info.is_required() else json.dumps(_plain(info.default)),
            info.description or "",
        )
        for key, info in _leaves(Recipe)
        if key == prefix or not prefix or key.startswith(prefix + ".")
    ]
    if not rows:
        near = difflib.get_close_matches(prefix, [key for key, _ in _leaves(Recipe)], 1)
        raise UserError(f"no recipe key '{prefix}'", fix=f"did you mean '{near[0]}'?" if near else "")
    return rows


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _type_name(info: FieldInfo) -> str:
    options = get_args(info.annotation)
    if options and all(isinstance(o, str) for o in options):
        return " | ".join(options)
    text = getattr(info.annotation, "__name__", str(info.annotation)) if not options else str(info.annotation)
    return re.sub(r"typing\.|Annotated\[(\w+)[^\]]*\](\])?", lambda m: m[1] or "", text)


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in model.model_fields.items():
        key = prefix + (info.alias or name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _leaves(info.annotation, key + ".")
        else:
            yield key, info


def _override(values: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {item}: not of the form key=value", fix="for example --set data.root=FOLDER")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError:
        value = text
    for part in parts[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {item}: '{part}' is a value, not a section")
        values = inner
    values[parts[-1]] = value


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    kind = error["type"]
    if kind == "extra_forbidden":
        known = [k for k, _ in _leaves(Recipe)] + list({k.split(".")[0] for k, _ in _leaves(Recipe)})
        near = difflib.get_close_matches(key, known, 1, cutoff=0.5)
        return f"{key}: unknown key" + (f"; did you mean '{near[0]}'?" if near else "")
    if kind == "missing":
        return f"{key}: missing"
    return f"{key}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"

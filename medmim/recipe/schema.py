"""The schema of a recipe: the typed YAML that a user edits, section by section."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from medmim.recipe.keys import IN_RECORDS, Ability, Positive, Section, holds_secret
from medmim.recipe.nightly import Nightly
from medmim.recipe.pods import Pods
from medmim.recipe.registry import Gate, Promote, Register, Retention
from medmim.recipe.sources import BUILT_IN, AnySource, Files, Other, SourceName
from medmim.recipe.words import Words
from medmim.redact import shown
from medmim.sample import ABILITIES

Fraction = Annotated[float, Field(ge=0, le=1)]
MAX_SIDE = 1024  # the largest input of one view in the zoo is 896 (Gemma 3); four times the bytes of 512
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _steps_or_time(value: int | str) -> int | str:
    number = value if isinstance(value, int) else int((re.fullmatch(r"(\d+)[smh]", value) or [0, 0])[1])
    if number <= 0:
        raise ValueError("is neither a number of steps, such as 100, nor a time, such as 45s, 10m or 2h")
    return value


class Data(Section):
    """What the data set is made of."""

    source: SourceName | None = Field(
        None, description=f"where the studies come from: {', '.join(BUILT_IN)}, or an installed one"
    )
    sources: tuple[AnySource, ...] = Field(
        (),
        validate_default=True,
        description="several sources, each a mapping of name, root and its options (docs/data.md)",
    )
    root: str | None = Field(
        None,
        description="folder or s3:// address of the raw data: images, and annotations unless `annotations` is set",
    )
    annotations: str | None = Field(
        None, description="folder of the Med-MIM JSON files, where they are apart from the images"
    )
    link_roots: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="folders outside `root` that symlinks of images may lead into (DVC, git-annex, Hugging Face cache)",
    )
    patients: Positive = Field(1500, description="phantom only: how many patients to draw")
    seed: Seed = Field(0, description="decides patients, split, wording and option order")
    abilities: tuple[Ability, ...] = Field(ABILITIES, min_length=1, description="which abilities to ask about")
    dev_fraction: Fraction = Field(0.05, description="share of the patients for development choices")
    test_fraction: Fraction = Field(0.15, description="share of the patients for the benchmark")
    sized_for: dict[str, Positive] = Field(
        {},
        description="pool of patients -> how many its groups are made for; a power of two by default (docs/data.md)",
    )
    form: Literal["strict", "published"] = Field(
        "strict",
        description="wording of questions on the real sources; published: Med-MIM's stems and options, flaws included",
    )
    quotas: dict[Ability, Positive | None] = Field(
        {}, description="ability -> most train questions made for it; null: the rest up to `total`; default: all"
    )
    total: Positive | None = Field(None, description="train questions of the abilities in `quotas`, all together")
    max_bad_fraction: Fraction = Field(0.01, description="quarantined rows above this share fail the step")
    max_side: int = Field(
        MAX_SIDE, ge=32, le=8192, description="pixels of the longer side of an image as stored; larger ones are reduced"
    )
    rows_only: bool = Field(False, description="do all that needs no pixels, then stop")
    words: Words | None = Field(
        None, description="approved wordings of questions and answers (docs/words.md); default: our templates"
    )

    @property
    def read_from(self) -> tuple[AnySource, ...]:
        """The sections of all sources; that of `source` is made of the keys beside it."""
        if self.source is None:
            return tuple(self._placed(own) for own in self.sources)
        kind = BUILT_IN.get(self.source, Other)
        values = {name: getattr(self, name) for name in ("root", "link_roots", "annotations", "patients")}
        given = {name: value for name, value in values.items() if name in kind.model_fields}
        return (kind.model_validate({"name": self.source, **given}),)  # type: ignore[return-value]

    def _placed(self, own: AnySource) -> AnySource:
        """A section with the address of its root, and with the links that all may follow."""
        if not isinstance(own, Files):
            return own
        root = own.root or self.root
        if self.root and own.root and not (own.root.startswith(("/", "~")) or "://" in own.root):
            root = f"{self.root.rstrip('/')}/{own.root}"
        return own.model_copy(update={"root": root, "link_roots": own.link_roots or self.link_roots})

    @field_validator("sources")
    @classmethod
    def _one_form_names_the_sources(
        cls, sources: tuple[AnySource, ...], found: ValidationInfo
    ) -> tuple[AnySource, ...]:
        if "source" in found.data and (found.data["source"] is None) == (not sources):
            raise ValueError("name one source in `source`, or several in `sources`")
        return sources

    @model_validator(mode="after")
    def _patients_are_left_to_train_on(self) -> "Data":
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError("dev_fraction and test_fraction leave no patients to train on")
        return self

    @model_validator(mode="after")
    def _published_rows_keep_their_words(self) -> "Data":
        if self.words is not None and self.form == "published":
            raise ValueError("words needs form: strict: the published form is Med-MIM's to the letter")
        return self

    @model_validator(mode="after")
    def _one_quota_is_the_rest(self) -> "Data":
        rest = [name for name, number in self.quotas.items() if number is None]
        if len(rest) > 1:
            raise ValueError(f"quotas: only one ability can be the rest (null), not {' and '.join(rest)}")
        if rest and self.total is None:
            raise ValueError(f"quotas: {rest[0]} is the rest (null) of a `total` that is not given")
        if not rest and self.total is not None:
            raise ValueError("total: needs an ability of `quotas` that is null, the rest")
        given = sum(number for number in self.quotas.values() if number is not None)
        if self.total is not None and given >= self.total:
            raise ValueError(f"quotas: {given} questions leave none of {self.total} for {rest[0]}")
        return self


class Audit(Section):
    """What splits may share, what a text may give away, and which identifiers may stand in it."""

    max_shared_patients: int = Field(0, ge=0, description="patients that train and test may share")
    max_shared_images: int = Field(0, ge=0, description="images that train and test may share")
    max_same_pixels: int = Field(0, ge=0, description="images that have the pixels of one in another split")
    max_look_alikes: int | None = Field(
        None, ge=0, description="images that look like one of an earlier split; by default they are told, and are clean"
    )
    max_same_questions: int | None = Field(
        None, ge=0, description="questions that an earlier split asks of the same pictures; by default they are told"
    )
    max_repeated_questions: int | None = Field(
        None, ge=0, description="questions that their own split has asked before; by default they are told"
    )
    max_same_texts: int | None = Field(
        None, ge=0, description="texts of no template that an earlier split has, of other pictures; by default told"
    )
    look_alike_distance: int = Field(
        24, ge=0, le=64, description="bits of 256 in which perceptual hashes of look-alikes may differ (docs/data.md)"
    )
    max_text_only: Fraction | None = Field(
        0.1, description="how far a text-only classifier may surely be above the best constant guess; null: no limit"
    )
    max_answer_position: Fraction | None = Field(
        0.1, description="how far one letter may surely be right more often than by chance; null: no limit"
    )
    max_option_length: Fraction | None = Field(
        0.1, description="the same of the longest or shortest option; null: no limit"
    )
    max_label: Fraction | None = Field(
        0.5,
        description="the same of one label, such as `normal`, as a share of what is possible (1: it is always right); "
        "null: no limit",
    )
    max_identifiers: int | None = Field(
        0, ge=0, description="rows with identifiers of one kind, such as dates or phone numbers; null: no limit"
    )
    names: str | None = Field(
        None, min_length=1, description="a file of this machine with names that no text may hold, a person a line"
    )
    read_images: int = Field(
        0, ge=0, description="images, drawn at random, whose burned-in text is read: half a second each (extra ocr)"
    )
    max_images_with_text: int | None = Field(
        None, ge=0, description="of them, images with more burned-in text than markers; null: no limit"
    )


class Lora(Section):
    """Low-rank adapters instead of all weights (LoRA, arXiv 2106.09685)."""

    rank: Positive = Field(128, description="columns of an adapter's matrices")
    alpha: Positive = Field(256, description="an adapter's output is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="on an adapter's input")
    targets: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="layers of the decoder that get an adapter",
    )
    train_projector: bool = Field(True, description="train all weights of the projector as well")
    merge: bool = Field(False, description="publish one model with the adapters added, instead of adapters and base")


class Validation(Section):
    """What the model is measured on while it is trained: loss, and accuracy by the likelihood of the options."""

    items: int = Field(200, ge=0, description="dev items, of all abilities in equal numbers; 0: no validation")
    every: Positive | None = Field(
        None, description="steps between validations; default: 100, more where it would cost over 2% of the time"
    )


class Finetune(Section):
    """How the base is tuned. The defaults suit the shipped bases; the recipes of published models say their own."""

    base: str = Field(
        "tiny-mantis", description="a shipped base, a folder, a store URI, models:/NAME@ALIAS or imported:FAMILY"
    )
    steps: Positive | None = Field(None, description="optimizer steps; default: `epochs` over the train split")
    epochs: float = Field(1.0, gt=0, description="passes over the train split when `steps` is not given")
    batch_size: Positive = Field(64, description="samples in one optimizer step, over all workers")
    max_tokens: Positive = Field(4096, description="tokens in one packed row; bounds memory")
    packing: bool = Field(True, description="pack samples without padding; exact, see finetune/packing.py")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: block matrices by Muon, the rest AdamW")
    lr: float = Field(1e-5, gt=0, description="peak learning rate (AdamW part)")
    projector_lr: float | None = Field(None, gt=0, description="of the projector (AdamW); default lr")
    tower_lr: float | None = Field(None, gt=0, description="of the vision tower (AdamW); default lr")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.98), description="AdamW's moments; 0.98 since short trainings must adapt within 50 steps"
    )
    muon_lr: float | None = Field(None, gt=0, description="peak learning rate of the Muon part; default 2 x lr")
    schedule: Literal["cosine", "linear"] = Field(
        "cosine", description="cosine to zero, or constant with a linear tail (`decay_fraction`)"
    )
    decay_fraction: Fraction = Field(0.35, description="linear schedule: share of the steps that decay")
    warmup: Fraction = Field(0.03, description="share of the steps that warm up")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    clip: float = Field(1.0, gt=0, description="gradient norm limit")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="bf16: computes in bf16 over fp32 weights (LoRA: over frozen bf16 ones, adapters in fp32); "
        "auto: where the GPU has it, else fp32",
    )
    zero: Literal[0, 2, 3] = Field(
        0,
        description="DeepSpeed's ZeRO: 0 without; 2 splits optimizer and gradients by worker, 3 the weights, too",
    )
    offload: Literal["none", "optimizer"] = Field(
        "none", description="optimizer: its state and update are in host memory; needs zero: 2 or 3"
    )
    lora: Lora | None = Field(None, description="train low-rank adapters; default: all weights")
    activation_checkpointing: bool = Field(
        False, description="compute a layer's activations again in the backward pass: less memory, a third more time"
    )
    freeze_vision: bool = Field(True, description="keep the vision tower as the base has it, as Mantis does")
    save_every: Annotated[int | str, AfterValidator(_steps_or_time)] = Field(
        100, description="between checkpoints: steps, or a time such as 45s, 10m or 2h"
    )
    keep_checkpoints: Positive = Field(2, description="how many of the newest checkpoints are kept")
    validation: Validation = Field(default_factory=Validation)
    keep: Literal["last", "best"] = Field(
        "last", description="the model that comes out: after the last step, or of the validation with the lowest loss"
    )
    seed: Seed = Field(0, description="order of the samples")

    @model_validator(mode="after")
    def _engine_takes_the_settings(self) -> "Finetune":
        if self.zero and self.optimizer == "muon":
            raise ValueError("optimizer: muon needs zero: 0: DeepSpeed splits matrices, and Muon needs whole ones")
        if self.offload != "none" and not self.zero:
            raise ValueError("offload needs zero: 2 or 3: the plain engine keeps the optimizer beside the weights")
        if self.keep == "best" and not self.validation.items:
            raise ValueError("keep: best needs validation.items above 0: the best is found by validating")
        return self


NOT_CONTENT = ("save_every", "keep_checkpoints", "zero", "offload", "activation_checkpointing")
"""Keys of `finetune` that change no content of the model: a training goes on, and is found, when they change."""


ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
OWN_ROLES = ("tuned", "base", "champion")  # of a run's own models
_SERVER = "openai:"  # begins the reference of a server's model


class Bench(Section):
    """Which questions are asked, and how."""

    tasks: tuple[str, ...] = Field(("held_in", "held_out"), description="which questions to ask")
    probes: tuple[Literal["blind", "grey", "swap"], ...] = Field(
        ("blind", "swap"),
        description="how to ask again: without images, with grey ones, with images moved one place on",
    )
    protocol: Literal["generate", "likelihood", "both"] = Field(
        "generate",
        description="read a generated answer, or compare the likelihoods of the options, which needs no reading; "
        "likelihood asks closed questions only",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="what runs a checkpoint: this process, or a vLLM server for as long as it is asked"
    )
    split: Literal["test", "dev"] = Field("test", description="dev: to choose by; a result that is not comparable")
    limit: Positive | None = Field(None, description="only the first N items: a result that is not comparable")
    batch_size: Positive = Field(32, description="questions asked at once")
    max_new_tokens: Positive = Field(32, description="longest answer")
    max_bad_fraction: Fraction = Field(0.02, description="engine errors above this share fail the step")
    models: dict[ModelName, Annotated[str, Field(min_length=1)]] = Field(
        {},
        description="further models to ask: their name in the scores -> a shipped base, folder, store URI, "
        "models:/NAME@ALIAS, imported:FAMILY, zoo:NAME or openai:URL#NAME",
    )

    @field_validator("models")
    @classmethod
    def _names_are_free(cls, models: dict[str, str]) -> dict[str, str]:
        if taken := [name for name in models if name in (*OWN_ROLES, "data")]:
            raise ValueError(f"{' and '.join(taken)}: the scores call the run's own models and data so; rename it")
        addresses = {name: ref.removeprefix(_SERVER) for name, ref in models.items() if ref.startswith(_SERVER)}
        if secret := [name for name, url in addresses.items() if holds_secret(url.rpartition("#")[0] or url)]:
            raise ValueError(f"{' and '.join(secret)}: {IN_RECORDS}")
        return models


class Report(Section):
    """What the report shows."""

    examples: int = Field(12, ge=0, description="items shown with their images")


class Platform(Section):
    """Where a run computes and stores; none of it is content."""

    store: str | None = Field(None, description="artifact store: folder or s3://bucket/prefix; default HOME/store")
    tracking: str | None = Field(None, description="MLflow tracking URI; default SQLite in HOME")
    ray: str = Field(
        "local",
        pattern=r"^(local|auto|rayjob|https?://[^\s/]+/?|[\w.-]+:\d+)$",
        description="where data, finetune, bench and rebench run: `local`, `rayjob` (pods of a KubeRay RayJob), "
        "http(s)://HOST:8265 (the Jobs API of a running Ray cluster), or `auto` and HOST:6379 on a node of one",
    )
    workers: Annotated[int, Field(gt=0, le=4096)] = Field(1, description="training workers")
    threads: Positive | None = Field(None, description="CPU threads a worker uses; default: its share of the cores")
    show_patients: bool = Field(
        False, description="whether web pages may name the patients and files of what this recipe makes"
    )
    pods: Pods = Field(default_factory=Pods)

    @property
    def node_of(self) -> str:
        """Address of the Ray cluster that this process is a node of; empty where there is none, or it is elsewhere."""
        return "" if self.ray in ("local", "rayjob") or "://" in self.ray else self.ray


class Recipe(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="names runs, reports and jobs")
    pipeline: Literal["train", "bench"] = Field(
        "train", description="bench: tune nothing, ask the models of bench.models: data, audit, bench, report"
    )
    data: Data
    audit: Audit = Field(default_factory=Audit)
    finetune: Finetune = Field(default_factory=Finetune)
    bench: Bench = Field(default_factory=Bench)
    register_: Register = Field(default_factory=Register, alias="register")
    gate: Gate = Field(default_factory=Gate)
    promote: Promote = Field(default_factory=Promote)
    report: Report = Field(default_factory=Report)
    retention: Retention = Field(default_factory=Retention)
    nightly: Nightly = Field(default_factory=Nightly)
    platform: Platform = Field(default_factory=Platform)

    @model_validator(mode="after")
    def _a_bench_alone_has_models_and_trains_nothing(self) -> "Recipe":
        if self.pipeline == "train":
            return self
        if not self.bench.models:
            raise ValueError("pipeline: bench asks the models of bench.models, and there are none; name some")
        idle = {"finetune": self.finetune, "register": self.register_, "gate": self.gate, "promote": self.promote}
        if given := [name for name, section in idle.items() if section != type(section)()]:
            raise ValueError(f"pipeline: bench does not read {', '.join(given)}; remove this, or take pipeline: train")
        return self

    @model_validator(mode="after")
    def _pods_that_serve_have_vllm(self) -> "Recipe":
        if self.bench.engine == "vllm" and self.platform.ray == "rayjob" and not self.platform.pods.vllm_image:
            raise ValueError(
                "bench.engine is vllm, and the pods of a Ray job need an image with it: set platform.pods.vllm_image, "
                "by digest (docs/image.md), or take bench.engine: transformers"
            )
        return self

    @model_validator(mode="after")
    def _each_worker_has_a_sample(self) -> "Recipe":
        if self.pipeline == "train" and self.platform.workers > self.finetune.batch_size:
            raise ValueError(
                f"platform.workers is {self.platform.workers} and finetune.batch_size {self.finetune.batch_size}: "
                "a step has fewer samples than there are workers; raise batch_size, or take fewer workers"
            )
        return self

    def dump(self) -> str:
        """The recipe as JSON, as steps receive it: sorted, but for the mappings that a user orders."""
        plain = self.model_dump(mode="json", by_alias=True)
        parts = {name: dict(sorted(part.items())) if isinstance(part, dict) else part for name, part in plain.items()}
        return json.dumps(dict(sorted(parts.items())))

    def record(self) -> dict[str, Any]:
        """The recipe as plain JSON for records and pages: as `dump`, without the password of `platform.tracking`."""
        plain: dict[str, Any] = json.loads(self.dump())
        if self.platform.tracking:
            plain["platform"]["tracking"] = shown(self.platform.tracking)
        return plain

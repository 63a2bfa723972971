"""What `train_gpu.py` measures: a model of random weights made on the device, trained with LoRA by either side."""

import gc
import inspect
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import training_samples
from torch.nn.attention import varlen

from medmim.errors import out_of_memory
from medmim.finetune import attention, batch, memory_plan, packing, throughput, trainable
from medmim.finetune.engines.plain import Plain
from medmim.finetune.memory_trace import Pass
from medmim.lvlm.encode import Encoded
from medmim.lvlm.importing import layouts
from medmim.lvlm.llava import quiet_transformers
from medmim.recipe.schema import Finetune, Lora

SHAPES = Path(__file__).parent / "shapes"
WARM, TIMED = 2, 6  # optimizer steps
_TOO_LARGE = "does not fit"
_SMALL_TEXT = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 500,
}  # fmt: skip
_SMALL_VISION = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 48,
    "patch_size": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        side: `medmim` or `Trainer`.
        name: Of the shape.
        checkpointing: Whether activations are computed again in the backward pass.
        max_tokens: Tokens of a forward pass: of a packed row, or of as many samples padded to the longest.
        batch_size: Samples of an optimizer step.
        tiny: Small numbers in the same architecture.
    """

    side: str
    name: str
    checkpointing: bool
    max_tokens: int
    batch_size: int
    tiny: bool

    @property
    def steps(self) -> tuple[int, int]:
        """Optimizer steps to warm up and to time."""
        return (1, 1) if self.tiny else (WARM, TIMED)

    @property
    def settings(self) -> Finetune:
        """The defaults of a recipe, with LoRA."""
        return Finetune(
            lora=Lora(rank=8, alpha=16) if self.tiny else Lora(),
            activation_checkpointing=self.checkpointing,
            max_tokens=self.max_tokens,
            batch_size=self.batch_size,
            precision="bf16",
        )


@dataclass(frozen=True)
class Measured:
    """A measured case.

    Attributes:
        steps: Steps timed; 0 where the memory did not suffice or no step was done in time.
        seconds: Of them, to the end of the last kernel.
        tokens: Of their samples, without padding.
        flops: Model FLOPs for these tokens.
        peak_gib: Largest memory that torch had allocated at once, of warm-up and timed steps; None on a CPU.
        plan_gib: What `medmim finetune --dry-run` would predict of it, by the largest row; None for the Trainer.
        attention: The kernel that ran in the decoder.
        note: Why there is no result.
    """

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    peak_gib: float | None = None
    plan_gib: float | None = None
    attention: str = ""
    note: str = ""

    @property
    def fits(self) -> bool:
        """Whether the memory sufficed."""
        return not self.note.startswith(_TOO_LARGE)

    @property
    def tokens_per_s(self) -> float | None:
        """Useful tokens per second; None without a result."""
        return self.tokens / self.seconds if self.steps else None

    def mfu(self, peak: float) -> float | None:
        """Share of a peak in FLOP/s; None without a result."""
        return self.flops / self.seconds / peak if self.steps else None


def config_of(name: str, tiny: bool) -> Any:
    """The `LlavaConfig` that an import makes of a published config.json, with a row of the embedding for `<image>`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text((SHAPES / f"{name}.json").read_text(encoding="utf-8"), "utf-8")
        config = layouts.layout_of(Path(folder), None).config
    if tiny:
        values = config.to_dict()
        values["text_config"] |= _SMALL_TEXT
        values["vision_config"] |= _SMALL_VISION
        values |= {"image_token_index": 499, "image_token_id": 499, "pad_token_id": 0}
        config = type(config).from_dict(values)
    text = config.text_config
    text.vocab_size = -(-max(text.vocab_size, config.image_token_id + 1) // layouts.ROWS) * layouts.ROWS
    return config


def build(config: Any, device: torch.device) -> Any:
    """A model with random weights in bf16, made on the device: 8B would take a minute and 16 GB on the host."""
    transformers = quiet_transformers()
    torch.manual_seed(0)
    with device:
        return transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).train()


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of the best of several large bf16 matrix products, each timed many times; on a CPU, of small ones."""
    if device.type == "cpu":
        found = throughput.peak_flops(device, bf16=True)
        assert found is not None  # of a CPU it is measured
        return found
    best = 0.0
    for m, k, n in ((8192, 8192, 8192), (16384, 8192, 8192), (8192, 4096, 14336), (8192, 14336, 4096)):
        a = torch.randn(m, k, device=device, dtype=torch.bfloat16)
        b = torch.randn(k, n, device=device, dtype=torch.bfloat16)
        for _ in range(5):
            a @ b
        for _ in range(20):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            a @ b
            end.record()
            torch.cuda.synchronize()
            best = max(best, 2 * m * k * n / (begin.elapsed_time(end) / 1000))
    return best


def planned(case: Case, device: torch.device) -> float | None:
    """GiB on the device by the memory model of the plan; None for the Trainer."""
    if case.side != "medmim":
        return None
    config = config_of(case.name, case.tiny)
    samples = _samples(config, case)
    lengths = [len(s) for s in samples]
    rows = [
        [chosen[i] for i in row]
        for chosen in packing.plan(lengths, case.max_tokens, case.batch_size, 0, 0)
        for row in packing.rows([lengths[i] for i in chosen], case.max_tokens)
    ]
    row = max(rows, key=lambda row: sum(lengths[i] for i in row))
    shape = Pass(
        tuple(lengths[i] for i in row),
        sum(samples[i].images for i in row),
        sum(int(samples[i].trained.sum()) for i in row),
    )
    need = memory_plan.need(config, case.settings, 1, shape, gpu=device.type == "cuda", bf16=True)
    return need.device / 2**30


def measure(case: Case, device: torch.device, until: float) -> Measured:
    """Measure a case.

    Args:
        case: The case.
        device: A GPU, or the CPU.
        until: `time.perf_counter()` after which no further step begins; a warm-up step and a timed one are done.
    """
    side = {"medmim": _medmim, "Trainer": _trainer}[case.side]
    try:
        return side(case, device, until)
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error) is None:
            raise
        note = f"{_TOO_LARGE}: {str(error).partition('. ')[0]}"
    finally:
        gc.collect()  # also what the frames of the error held
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Measured(note=note)


def _medmim(case: Case, device: torch.device, until: float) -> Measured:
    settings, config = case.settings, config_of(case.name, case.tiny)
    model = build(config, device)
    with device:
        trainable.prepare(model, settings)
    engine = Plain(model, settings, bf16=True)
    samples = _samples(config, case)
    shown = training_samples.picture(config)
    plan = packing.plan([len(s) for s in samples], case.max_tokens, case.batch_size, 0, 0)

    def batch_at(step: int) -> batch.Batch:
        chosen = [samples[i] for i in plan[step]]
        return batch.build(chosen, lambda i: shown[: chosen[i].images], max_tokens=case.max_tokens)

    clock = _Clock(device, until, *case.steps)
    tokens, flops = 0, 0.0
    with _counted() as calls, attention.packed(model), ThreadPoolExecutor(1) as loader:
        following = loader.submit(batch_at, 0)
        for step in range(len(plan)):
            built = following.result()
            following = loader.submit(batch_at, min(step + 1, len(plan) - 1))
            engine.gradients(built)
            engine.update(1.0)
            if clock.timing:
                tokens += built.tokens
                flops += throughput.step_flops(config, built, settings)
            if clock.step():
                break
    kernel = f"varlen_attn, {calls[0]:,} calls" if calls[0] else "scaled_dot_product_attention, sample by sample"
    return clock.measured(tokens, flops, kernel)


def _trainer(case: Case, device: torch.device, until: float) -> Measured:
    """The stock Trainer: the same LoRA around the same model; it switches checkpointing on by itself."""
    import transformers

    settings, config = case.settings, config_of(case.name, case.tiny)
    model = build(config, device)
    with device:
        adapted = trainable.prepare(model, settings.model_copy(update={"activation_checkpointing": False}))
    samples = _samples(config, case)
    clock = _Clock(device, until, *case.steps)
    seen = torch.zeros((), dtype=torch.int64, device=device)
    before = [0]

    def count(_: Any, __: Any, given: dict[str, Any]) -> None:
        seen.add_(given["attention_mask"].sum())

    class Steps(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not clock.timing:
                before[0] = int(seen)
            control.should_training_stop = clock.step()

    adapted.register_forward_pre_hook(count, with_kwargs=True)
    at_once = micro_batch(case, max(len(s) for s in samples))
    with tempfile.TemporaryDirectory() as folder:
        peer = training_samples.peer(
            adapted, samples, Path(folder), per_device_train_batch_size=at_once,
            gradient_accumulation_steps=case.batch_size // at_once, max_steps=sum(case.steps),
            learning_rate=settings.lr, adam_beta1=settings.betas[0], adam_beta2=settings.betas[1],
            lr_scheduler_type="constant", optim="adamw_torch_fused", bf16=True,
            gradient_checkpointing=case.checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False}, use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
        )  # fmt: skip
        peer.add_callback(Steps())
        peer.train()
    tokens = int(seen) - before[0]
    kernel = f"{config.text_config._attn_implementation}, {at_once} samples padded"
    return clock.measured(tokens, tokens * _flops_of_a_token(case, config, samples), kernel)


def micro_batch(case: Case, longest: int) -> int:
    """Samples that the Trainer pads together: they divide a step, and have no more tokens than a packed row."""
    most = max(1, case.max_tokens // longest)
    return next(n for n in range(min(most, case.batch_size), 0, -1) if case.batch_size % n == 0)


class _Clock:
    """Times the steps after the warm-up, and says when to stop."""

    def __init__(self, device: torch.device, until: float, warm: int, most: int) -> None:
        self.device, self.until, self.warm, self.most = device, until, warm, most
        self.warmed = self.steps = 0
        self.begin = self.end = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    @property
    def timing(self) -> bool:
        """Whether the step that is being done is timed; where time is short, one step warms up."""
        return self.begin > 0

    def step(self) -> bool:
        """A step was done; whether it was the last."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.timing:
            self.steps, self.end = self.steps + 1, now
            return self.steps == self.most or now > self.until
        self.warmed += 1
        if self.warmed == self.warm or now > self.until:
            self.begin = now
        return False

    def measured(self, tokens: int, flops: float, kernel: str) -> Measured:
        """The result."""
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else None
        return Measured(self.steps, self.end - self.begin, tokens, flops, peak, attention=kernel)


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Count the calls of the flash kernel; in torch 2.11 it takes fewer key heads without being told."""
    real, calls = varlen.varlen_attn, [0]
    told = "enable_gqa" in inspect.signature(real).parameters

    def count(*given: Any, enable_gqa: bool = False, **named: Any) -> Any:
        calls[0] += 1
        return real(*given, **named, **({"enable_gqa": enable_gqa} if told else {}))

    varlen.varlen_attn = count
    try:
        yield calls
    finally:
        varlen.varlen_attn = real


def _samples(config: Any, case: Case) -> list[Encoded]:
    spread = training_samples.SPREADS["Med-MIM"]
    return training_samples.draw(config, case.batch_size * sum(case.steps), *spread)


def _flops_of_a_token(case: Case, config: Any, samples: Sequence[Encoded]) -> float:
    """Model FLOPs of the samples, as if none were padded, by token."""
    counted_only = torch.empty(3, 1, device="meta")
    built = batch.build(samples, lambda i: counted_only[: samples[i].images], max_tokens=case.max_tokens)
    return throughput.step_flops(config, built, case.settings) / built.tokens


def record(case: Case, found: Measured, peak: float) -> str:
    """A case and its result as a line of JSON."""
    return json.dumps({**asdict(case), **asdict(found), "tokens_per_s": found.tokens_per_s, "mfu": found.mfu(peak)})

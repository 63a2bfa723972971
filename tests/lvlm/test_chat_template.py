"""What other tools render with the checkpoint's chat template is what the family writes, byte for byte."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image
from transformers import AutoProcessor, pipeline

from medmim.lvlm import checkpoint, saving
from medmim.lvlm.ask import Question
from medmim.lvlm.ask_hf import ask
from medmim.lvlm.encode import IGNORED, encode
from medmim.lvlm.family import Turn

IMAGES = [Image.radial_gradient("L").convert("RGB"), Image.linear_gradient("L").convert("RGB")]
words = st.text(st.characters(codec="utf-8"), max_size=20)
turns = st.lists(st.builds(Turn, words, words), max_size=2).flatmap(
    lambda done: st.builds(Turn, words, st.none() | words).map(lambda last: [*done, last])
)


def chat(conversation, images=0, strings=False):
    """A conversation as OpenAI's API and transformers take it."""
    messages = []
    for index, turn in enumerate(conversation):
        front = [{"type": "image"}] * (images if index == 0 else 0)
        messages.append({"role": "user", "content": [*front, {"type": "text", "text": turn.question}]})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    if strings and not images:
        messages = [{**message, "content": message["content"][-1]["text"]} for message in messages]
    return messages


def shown(count):
    return [{"type": "image", "image": image} for image in IMAGES[:count]]


@pytest.fixture(scope="session")
def processors(folders):
    return {name: AutoProcessor.from_pretrained(folder) for name, folder in folders.items()}


@settings(max_examples=60)
@given(conversation=turns, images=st.integers(0, 4), strings=st.booleans())
def test_the_template_writes_what_the_family_writes(lvlm, processors, conversation, images, strings):
    if any(token in f"{turn.question}\0{turn.answer}" for turn in conversation for token in lvlm.family.reserved):
        return
    written = "".join(segment.text for segment in lvlm.family.render(conversation, images))
    to_answer = conversation[-1].answer is None
    rendered = processors[lvlm.family.name].apply_chat_template(
        chat(conversation, images, strings), add_generation_prompt=to_answer
    )
    assert rendered == written


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_processor_tokenizes_a_chat_as_we_do_and_marks_what_is_trained(lvlm, processors, count):
    processor = processors[lvlm.family.name]
    conversation = [Turn("Which image shows opacity?\nA: image 1\nB: image 2", "B: image 2"), Turn("And now?", "none")]
    messages = chat(conversation, count)
    messages[0]["content"] = [*shown(count), messages[0]["content"][-1]]
    encoded = encode(lvlm, conversation, count)
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assert inputs["input_ids"][0] == encoded.ids
    trained = [int(label != IGNORED) for label in encoded.labels]
    assert inputs["assistant_masks"][0] == trained


def test_a_reserved_token_in_the_text_is_refused_as_the_family_refuses_it(lvlm, processors):
    for token in (*lvlm.family.special, *lvlm.family.stop):
        with pytest.raises(TemplateError, match="reserves"):
            processors[lvlm.family.name].apply_chat_template(chat([Turn(f"a {token} b")]))


def test_a_system_message_takes_the_place_of_mantis_own_and_llava_med_has_none(processors):
    messages = [{"role": "system", "content": "Be brief."}, *chat([Turn("question")])]
    written = processors["mantis"].apply_chat_template(messages)
    assert written.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><")
    with pytest.raises(TemplateError, match="user and assistant only"):
        processors["llava-med"].apply_chat_template(messages)


def test_the_pipeline_of_transformers_answers_as_we_do(lvlm):
    question = "Which image shows opacity?\nA: image 1\nB: image 2"
    ours = next(ask(lvlm, [Question(question, IMAGES)], max_new_tokens=6)).text
    pipe = pipeline("image-text-to-text", model=str(lvlm.path), device="cpu", dtype=torch.float32)
    messages = chat([Turn(question)])
    messages[0]["content"] = [*shown(2), *messages[0]["content"]]
    (answer,) = pipe(text=messages, max_new_tokens=6, do_sample=False, return_full_text=False)
    assert answer["generated_text"].strip() == ours


def test_the_template_decides_what_a_server_answers_so_it_is_in_the_digest(lvlm, tmp_path):
    saved = saving.save(lvlm, tmp_path).digest
    (tmp_path / "chat_template.jinja").write_text("other")
    assert checkpoint.digest(tmp_path) != saved


class _Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.Scope(body, lineno=line)


def test_the_template_loops_over_the_parts_of_a_message(lvlm):
    """By that vLLM knows that images come apart from the text; else it writes `<image>` into the text itself."""
    tree = ImmutableSandboxedEnvironment(extensions=[_Generation]).parse(lvlm.family.chat_template)
    loops = [loop.iter for loop in tree.find_all(nodes.For)]
    assert any(isinstance(it, nodes.Getitem) and (it.node.name, it.arg.value) == ("message", "content") for it in loops)

"""Token ids and labels: which tokens are trained, and that lengths need no pixels."""

from types import SimpleNamespace

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from medmim.errors import UserError
from medmim.lvlm import llava
from medmim.lvlm.encode import IGNORED, encode, encode_all, tokens_per_image
from medmim.lvlm.family import Turn

relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def shape(kind, size, patch, strategy):
    vision = SimpleNamespace(model_type=kind, image_size=size, patch_size=patch)
    return SimpleNamespace(vision_config=vision, vision_feature_select_strategy=strategy)


def test_published_models_take_the_published_number_of_tokens():
    assert tokens_per_image(shape("siglip_vision_model", 384, 14, "default")) == 728  # Mantis
    assert tokens_per_image(shape("clip_vision_model", 336, 14, "default")) == 576  # LLaVA-Med


def test_tokens_per_image_are_what_the_model_computes(lvlm):
    from PIL import Image

    from medmim.lvlm.features import pixels

    features = lvlm.model.model.get_image_features(pixels(lvlm, [Image.new("RGB", (96, 96))])).pooler_output
    assert sum(len(f) for f in features) == tokens_per_image(lvlm.model.config)


@relaxed
@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=20)), min_size=1, max_size=3), st.integers(0, 4))
def test_labels_cover_exactly_the_trained_text(lvlm, pairs, images):
    turns = [Turn(question, answer) for question, answer in pairs]
    assume(not any(token in q + "|" + a for token in lvlm.family.reserved for q, a in pairs))
    encoded = encode(lvlm, turns, images)
    segments = lvlm.family.render(turns, images)
    wanted = "".join(s.text for s in segments if s.trained)
    assert lvlm.tokenizer.decode([t for t in encoded.labels if t != IGNORED]) == wanted
    assert all(label in (IGNORED, token) for token, label in zip(encoded.ids, encoded.labels, strict=True))


@relaxed
@given(st.text(max_size=60), st.integers(0, 4))
def test_ids_are_the_whole_text_with_images_expanded(lvlm, question, images):
    assume(not any(token in question for token in lvlm.family.reserved))
    encoded = encode(lvlm, [Turn(question)], images)
    image = lvlm.model.config.image_token_id
    repeat = tokens_per_image(lvlm.model.config)
    assert encoded.ids.count(image) == images * repeat
    once = lvlm.tokenizer.decode(encoded.ids).replace("<image>" * repeat, "<image>")
    assert once == "".join(s.text for s in lvlm.family.render([Turn(question)], images))
    assert len(encoded.ids) == len(encoded)
    assert set(encoded.labels) == {IGNORED}


def test_a_prompt_is_the_beginning_of_its_training_text(lvlm):
    turns = [Turn("Which image shows opacity?\nA: image 1\nB: image 2", "B: image 2")]
    prompt = encode(lvlm, [Turn(turns[0].question)], 2).ids
    assert encode(lvlm, turns, 2).ids[: len(prompt)] == prompt


@relaxed
@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=20), st.integers(0, 4)), max_size=6))
def test_many_at_once_are_what_each_is_alone_and_a_refused_one_does_not_move_the_others(lvlm, texts):
    conversations = [([Turn(question, answer)], images) for question, answer, images in texts]
    conversations.insert(len(texts) // 2, ([Turn("see <image>")], 1))
    for (turns, images), found in zip(conversations, encode_all(lvlm, conversations), strict=True):
        try:
            alone = encode(lvlm, turns, images)
        except UserError as error:
            assert found.fact == error.fact
        else:
            assert (found.ids, found.labels, found.images) == (alone.ids, alone.labels, images)
            assert len(found) == len(alone.ids)


def test_weights_are_not_needed(lvlm):
    turns = [Turn("Which image shows opacity?", "B: image 2")]
    assert encode(llava.load_text(lvlm.path), turns, 2).ids == encode(lvlm, turns, 2).ids


def test_a_tokenizer_whose_file_asks_for_truncation_and_padding_does_neither(lvlm):
    text = llava.load_text(lvlm.path)
    conversations = [([Turn("Which image shows opacity? " * n, "B")], 1) for n in (1, 20)]
    want = [encode(lvlm, turns, images).ids for turns, images in conversations]
    for find in (lambda: encode_all(text, conversations), lambda: [encode(text, *one) for one in conversations]):
        text.tokenizer.backend_tokenizer.enable_truncation(16)
        text.tokenizer.backend_tokenizer.enable_padding(length=64)
        assert [found.ids for found in find()] == want

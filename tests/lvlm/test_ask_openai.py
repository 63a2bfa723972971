"""Inference on a server over real HTTP: what is sent, in which order, whether images arrive, likelihoods."""

import base64
import io
import json
import math
import threading
import time

import pytest
from PIL import Image

from medmim.errors import Unavailable, UserError
from medmim.lvlm import ask_openai
from medmim.lvlm.ask import Question, Reply
from tests.support.openai_server import Server

pytestmark = pytest.mark.usefixtures("no_waiting")


def test_images_are_sent_in_order_and_without_loss(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    images = [Image.linear_gradient("L").convert("RGB"), Image.new("RGB", (3, 5), (1, 2, 3))]
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("Which?", images)], max_new_tokens=7)
    assert reply.text == "echo Which?"
    *_, sent = server.requests
    assert (sent["path"], sent["model"], sent["max_tokens"]) == ("/v1/chat/completions", "tiny", 7)
    assert sent["temperature"] == 0
    assert sent["auth"] == "Bearer secret"
    parts = sent["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    for part, image in zip(parts, images, strict=False):
        data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(data)).tobytes() == image.tobytes()


def test_replies_keep_the_order_of_the_questions(server):
    questions = [Question(f"number {i}") for i in range(40)]
    done = []
    replies = list(ask_openai.ask(server.url, "tiny", questions, batch_size=8, on_done=done.append))
    assert [reply.text for reply in replies] == [f"echo number {i}" for i in range(40)]
    assert len({reply.key for reply in replies}) == 40
    assert sum(done) == 40


def test_a_question_that_is_no_text_is_not_sent(server):
    replies = list(ask_openai.ask(server.url, "tiny", [Question("a \ud83d"), Question("fine")]))
    assert "surrogate" in replies[0].error and replies[1].text == "echo fine" and len(server.requests) == 1


def test_a_reply_that_was_cut_is_marked(server):
    server.finish = "length"
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("hello")])
    assert reply.cut and reply.text == "echo hello"


OPTIONS = ("left", "right", "both")
ASKED = Question("which?\nA: left\nB: right\nC: both", options=OPTIONS)


def told(*likeliest: tuple[str, float], before: str = "") -> str:
    """A completion with log-probabilities, as vLLM and OpenAI write it."""

    def token(text: str, top: list[dict]) -> dict:
        return {"token": text, "logprob": -0.1, "bytes": list(text.encode()), "top_logprobs": top}

    top = [{"token": text, "logprob": value, "bytes": None} for text, value in likeliest]
    content = [token(before, [{"token": before, "logprob": -0.1}])] * bool(before) + [token(likeliest[0][0], top)]
    message = {"role": "assistant", "content": "".join(one["token"] for one in content)}
    return json.dumps({"choices": [{"index": 0, "message": message, "logprobs": {"content": content}}]})


def compared(server: Server, body: str, asked: Question = ASKED) -> Reply:
    server.raw = lambda text: body
    (reply,) = ask_openai.compare(server.url, "tiny", [asked])
    return reply


def test_letters_are_compared_by_the_likeliest_first_tokens(server):
    reply = compared(server, told(("B", -0.5), ("A", -1.5), ("The", -2.0), ("C", -3.0)))
    assert reply.letters == pytest.approx((-1.5, -0.5, -3.0)) and not reply.texts and not reply.error
    (sent,) = server.requests
    assert (sent["logprobs"], sent["top_logprobs"], sent["temperature"]) == (True, 20, 0.0)


def test_tokens_that_are_the_same_letter_count_together_and_words_do_not(server):
    reply = compared(
        server, told(("A", -1.0), (" A", -1.0), ("A:", -2.0), ("Left", -0.1), ("\u2581B", -1.2), ("a", -0.2))
    )
    total = math.log(2 * math.exp(-1.0) + math.exp(-2.0))
    assert reply.letters[:2] == pytest.approx((total, -1.2))
    assert reply.letters[2] < -2.0  # less likely than all that the server tells


@pytest.mark.parametrize("space", [" ", "\n", "\u2581", "\u0120"])
def test_white_space_before_the_letter_does_not_count(server, space):
    assert compared(server, told(("C", -0.2), ("A", -1.0), before=space)).letters[2] == pytest.approx(-0.2)


def test_an_answer_that_begins_with_no_letter_is_the_error_of_its_question(server):
    reply = compared(server, told(("I", -0.1), ("Sorry", -2.0)))
    assert "no letter of an option" in reply.error and not reply.letters
    assert compared(server, told(("D", -0.1), ("Sorry", -2.0))).error  # there are three options


@pytest.mark.parametrize("nothing", [-9999.0, -math.inf, math.nan, -1e308])
def test_a_number_that_stands_for_no_likelihood_is_none_of_its_letter(server, nothing):
    reply = compared(server, told(("B", -0.5), ("A", nothing), ("The", -2.0)))
    assert reply.letters[1] == pytest.approx(-0.5) and reply.letters[0] == reply.letters[2] < -2.0


@pytest.mark.parametrize("wrong", [3.0, 1e6, math.inf])
def test_a_likelihood_above_one_is_the_error_of_its_question(server, wrong):
    assert "log-probabilities that are none" in compared(server, told(("B", -0.5), ("A", wrong))).error
    assert "log-probabilities that are none" in compared(server, told(("B", math.nan), ("A", math.nan))).error
    assert not compared(server, told(("B", 1e-6), ("A", -9.0))).error  # rounded


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"choices": [{"index": 0, "message": {"content": "A"}}]}),
        json.dumps({"choices": [{"index": 0, "message": {"content": "A"}, "logprobs": None}]}),
        json.dumps({"choices": [{"index": 0, "logprobs": {"content": [{"token": "A", "top_logprobs": 5}]}}]}),
        json.dumps({"choices": [{"index": 0, "logprobs": {"content": [{"token": "A", "logprob": -1}]}}]}),
    ],
)
def test_a_server_without_log_probabilities_ends_it_with_the_key_to_change(server, body):
    with pytest.raises(UserError, match="does not tell how likely") as caught:
        compared(server, body)
    assert "bench.protocol" in caught.value.fix and "--protocol" in caught.value.fix


def test_a_server_that_refuses_logprobs_ends_it_too_in_its_words(server):
    server.error = "This model does not support logprobs"
    with pytest.raises(UserError, match="does not tell how likely") as caught:
        list(ask_openai.compare(server.url, "tiny", [Question("always 400", options=OPTIONS)]))
    assert "does not support logprobs" in caught.value.reason
    server.error = "the image is too small"
    (reply,) = ask_openai.compare(server.url, "tiny", [Question("always 400", options=OPTIONS)])
    assert "too small" in reply.error


def test_likelihoods_of_a_server_have_other_keys_than_its_answers(server):
    compare = compared(server, told(("A", -0.1)))
    other = compared(server, told(("A", -0.1)), Question(ASKED.prompt, options=OPTIONS[:2]))
    (answer,) = ask_openai.ask(server.url, "tiny", [ASKED])
    assert len({compare.key, other.key, answer.key}) == 3


PICTURES = [Image.new("RGB", (60, 40), (9 * i, 0, 0)) for i in range(4)]


def costly(text, images):
    """The tokens of a prompt whose images all arrive."""
    return len(text.split()) + 100 * len(images)


def asked(server):
    """The questions that were put to a server, without those that only count tokens."""
    return [one for one in server.requests if one["max_tokens"] != 1]


@pytest.mark.parametrize(
    ("kept", "images", "said"),
    [
        (lambda images: [], 1, "1 tokens with an image and 1 without"),
        (lambda images: images[:1], 2, "101 tokens with 2 images, 101 with 1 and 1 with none"),
        (lambda images: images[-3:], 4, "301 tokens with 4 images, 301 with 3 and 1 with none"),
    ],
)
def test_a_server_that_drops_images_is_refused_before_it_is_asked(server, kept, images, said):
    server.count = lambda text, shown: costly(text, kept(shown))
    questions = [Question("blind"), Question("seen", PICTURES[:images])]
    with pytest.raises(UserError, match="drops images of the questions to 'tiny'") as caught:
        list(ask_openai.ask(server.url, "tiny", questions))
    assert said in caught.value.reason and caught.value.exit_code == 2
    assert f"--limit-mm-per-prompt '{{\"image\": {images}}}'" in caught.value.fix and "template" in caught.value.fix
    assert all(len(one["messages"][0]["content"]) == 1 for one in asked(server))


def test_a_server_that_takes_fewer_images_is_refused_in_its_words(server):
    server.count, words = costly, "At most 2 image(s) may be provided in one prompt."
    server.refuse = lambda images: words if len(images) > 2 else ""
    assert [r.text for r in ask_openai.ask(server.url, "tiny", [Question("two", PICTURES[:2])])] == ["echo two"]
    with pytest.raises(UserError, match="takes no question with 3 images") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("three", PICTURES[:3])]))
    assert caught.value.reason.endswith(words) and '{"image": 3}' in caught.value.fix


def test_tokens_are_counted_once_for_each_number_of_images(server):
    server.count, learned, counts = costly, ask_openai.Learned(), []
    for numbers in ([1, 0, 1], [1, 2], [2, 1, 2]):
        server.requests.clear()
        questions = [Question(f"images {n}", PICTURES[:n]) for n in numbers]
        list(ask_openai.ask(server.url, "tiny", questions, learned=learned))
        counts.append(len(server.requests) - len(asked(server)))
    assert counts == [3, 3, 0]
    assert learned.facts() == {"images_arrive": "seen in questions of up to 2, by usage.prompt_tokens"}


def test_likelihoods_are_asked_of_no_server_that_drops_images(server):
    server.count = lambda text, images: 5
    with pytest.raises(UserError, match="drops images"):
        list(ask_openai.compare(server.url, "tiny", [Question("which?", PICTURES[:1], OPTIONS)]))


def test_a_server_without_counts_is_said_once_not_to_be_verified(server, capsys):
    learned = ask_openai.Learned()
    for _ in range(2):
        questions = [Question(f"number {i}", PICTURES[: 1 + i]) for i in range(3)]
        assert all(r.text for r in ask_openai.ask(server.url, "tiny", questions, learned=learned))
    assert capsys.readouterr().err.count("not verified that images reach 'tiny'") == 1
    assert learned.facts() == {"images_arrive": "not verified: the server tells no usage.prompt_tokens"}
    assert len(server.requests) - len(asked(server)) == 1


def test_a_question_by_which_nothing_can_be_counted_leaves_it_to_the_next(server):
    server.count, learned = costly, ask_openai.Learned()
    questions = [Question("always 400", PICTURES[:1]), Question("fine", PICTURES[1:2])]
    first, second = ask_openai.ask(server.url, "tiny", questions, learned=learned)
    assert "HTTP 400" in first.error and second.text == "echo fine" and learned.costs.images == 1


def test_a_reply_whose_prompt_is_too_short_for_its_images_is_an_error(server):
    server.count = lambda text, images: costly(text, images[:1] if "drop" in text else images)
    questions = [Question("fine", PICTURES[:2]), Question("drop it", PICTURES[:2]), Question("drop none", PICTURES[:1])]
    replies = list(ask_openai.ask(server.url, "tiny", questions))
    assert [bool(reply.error) for reply in replies] == [False, True, False]
    assert "has 102 tokens, and its 2 images alone should have" in replies[1].error and not replies[1].text
    assert [(reply.prompt_tokens, reply.new_tokens) for reply in replies] == [(201, 1), (102, 1), (102, 1)]


def test_an_image_has_the_digest_of_its_pixels_as_its_uuid(server):
    server.count = costly
    same = [Question("one", PICTURES[:2]), Question("two", [PICTURES[1].copy(), PICTURES[2]])]
    list(ask_openai.ask(server.url, "tiny", same, batch_size=1))
    (a, b), (c, d) = ([part["uuid"] for part in one["messages"][0]["content"][:-1]] for one in asked(server))
    assert b == c and len({a, b, d}) == 3 and len(b) == 64
    server.requests.clear()
    list(ask_openai.ask(server.url, "tiny", [Question("given", PICTURES[:1], pixels=["known"])]))
    assert asked(server)[0]["messages"][0]["content"][0]["uuid"] == "known"


def test_a_server_that_knows_no_uuid_is_asked_without_it_and_remembered(server):
    server.fields -= {"uuid"}
    server.count, learned = costly, ask_openai.Learned()
    for _ in range(2):
        questions = [Question(f"number {i}", PICTURES[:1]) for i in range(20)]
        replies = list(ask_openai.ask(server.url, "tiny", questions, learned=learned))
        assert [reply.text for reply in replies] == [f"echo number {i}" for i in range(20)]
    named = [one for one in server.requests if any("uuid" in part for part in one["messages"][0]["content"])]
    assert len(named) == 1 and len(asked(server)) == 40


def test_a_question_that_is_refused_for_itself_is_sent_twice_at_most(server):
    """Once more without `uuid`, where it is not known whether the server takes it."""
    server.error = "this image is damaged"
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("always 400", PICTURES[:1])])
    assert reply.error == "HTTP 400: this image is damaged" and len(asked(server)) == 2
    server.requests.clear()
    server.count = costly
    list(ask_openai.ask(server.url, "tiny", [Question("fine", PICTURES[:1]), Question("always 400", PICTURES[:1])]))
    assert len(asked(server)) == 2


def test_as_many_requests_as_asked_for_are_under_way_all_the_time(server):
    """The others pass a barrier of three, though the first one is answered after as many as may be taken with it."""
    barrier, answered, all_of_them = threading.Barrier(3), [], threading.Event()

    def wait(text):
        if text == "number 0":
            assert all_of_them.wait(30)
        else:
            barrier.wait(30)
            answered.append(text)
            if len(answered) == 4 * 4 - 1:
                all_of_them.set()

    server.wait = wait
    taken = []
    questions = (taken.append(i) or Question(f"number {i}") for i in range(1000))
    replies = ask_openai.ask(server.url, "tiny", questions, batch_size=4)
    assert next(replies).text == "echo number 0" and len(answered) == len(taken) - 1 == 4 * 4 - 1
    server.wait = lambda text: None
    barrier.reset()
    for number in range(1, 100):
        assert next(replies).text == f"echo number {number}"
        assert len(taken) <= number + 1 + 4 * 4
    replies.close()
    assert len(taken) < 150  # the other questions are never made


def test_calls_that_go_on_at_once_share_the_requests_under_way(server):
    """As where the probes of a benchmark are asked in turns."""
    busy, most, lock, learned = 0, 0, threading.Lock(), ask_openai.Learned()

    def wait(text):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.01)
        with lock:
            busy -= 1

    server.wait = wait
    calls = [
        ask_openai.ask(server.url, "tiny", [Question(f"{name} {i}") for i in range(20)], 2, learned=learned)
        for name in "abc"
    ]
    assert len([reply for replies in zip(*calls, strict=True) for reply in replies]) == 60
    assert most == 2


def test_a_question_that_takes_too_long_is_its_own_error_while_others_are_answered(server, monkeypatch):
    monkeypatch.setattr(ask_openai, "_TIMEOUT", 0.5)
    monkeypatch.setattr(ask_openai, "_PER_TOKEN", 0.0)
    tries, end = [], threading.Event()

    def wait(text):
        if text == "slow":
            tries.append(text)
            assert end.wait(30)

    def questions():
        yield Question("slow")
        while len(tries) < 2 or len(server.requests) < 12:
            yield Question("fine")
            time.sleep(0.02)

    server.wait = wait
    slow, *others = ask_openai.ask(server.url, "tiny", questions(), batch_size=40)
    end.set()
    assert slow.error == "no answer within 0 s, while others were answered" and len(tries) == 2
    assert {reply.text for reply in others} == {"echo fine"}


def test_a_question_that_fails_the_server_is_its_own_error_while_others_are_answered(server):
    failing, *others = ask_openai.ask(server.url, "tiny", [Question("always 500"), *[Question("fine")] * 5], 4)
    assert failing.error == "HTTP 500: no, thanks, while others were answered"
    assert {reply.text for reply in others} == {"echo fine"}
    assert len(server.requests) == 4 + 5, "it is tried as often as any"


def test_a_limit_of_requests_ends_nothing_while_others_are_answered(server):
    """One question meets the limit once more for each other that is answered."""
    answered, tries, more = [], [], threading.Condition()

    def wait(text):
        with more:
            if text != "always 429":
                assert more.wait_for(lambda: len(tries) > len(answered), 30)
                answered.append(text)
            else:
                tries.append(text)
                more.notify_all()
                assert more.wait_for(lambda: len(answered) >= min(len(tries), 12), 30)
            more.notify_all()

    server.wait = wait
    questions = [Question("always 429"), *(Question(f"number {i}") for i in range(12))]
    with pytest.raises(Unavailable, match="answers 429"):  # when all others are
        list(ask_openai.ask(server.url, "tiny", questions, batch_size=4))
    assert len(tries) > 8 and len(answered) == 12


@pytest.mark.parametrize(
    ("made", "text", "told"), [(9, "B", "9 tokens"), (0, "B" * 2000, "2,000 char"), (3, "B" * 2000, "2,000 char")]
)
def test_a_server_that_ignores_the_longest_answer_answers_none(server, made, text, told):
    server.count, server.made, server.say = costly, made, lambda _: text
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("hello")], max_new_tokens=7)
    assert f"the server ignores max_tokens: {told}" in reply.error and not reply.text
    server.made, server.say = 8, lambda _: "B"  # one more is the end of an answer
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("hello")], max_new_tokens=7)
    assert reply.text == "B" and reply.new_tokens == 8

"""The wording of questions, options and captions: templates in the plain English of the published rows.

Abilities decide what is asked, this file how. The choice of a phrasing never depends on the answer, and options come in
random order, so the text does not reveal the answer.
"""

from collections.abc import Sequence
from random import Random

from medmim.data.abilities.ask import NORMAL, Ask
from medmim.sample import Study

# Wording of values whose plain form does not fit into a question or an option.
WORDS = {
    "X-ray": "radiography",
    "fundus": "fundoscopy",
    "L": "lateral",
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "change": (
        "How did the {finding} change from image 1 to image 2?",
        "Image 2 was taken after image 1. What became of the {finding}?",
        "What is the change of the {finding} between image 1 and image 2?",
    ),
    "order": (
        "Which image was taken {value}?",
        "Both images are of one patient. Which was taken {value}?",
    ),
    "assessment": (
        "What is the assessment of the breast in image 1 and image 2?",
        "Which assessment do the two views of the breast support?",
        "Read image 1 and image 2 together. What is the assessment?",
    ),
    "diagnosis": (
        "Which finding do these views of one patient support?",
        "Read all images together. What is the finding?",
    ),
    "same_patient": (
        "Which image shows the same patient as image 1?",
        "Find the image of the same patient as image 1.",
    ),
    "resection": (
        "Image 1 was taken before surgery, image 2 after. What is the extent of resection?",
        "How much of the tumor was removed between image 1 and image 2?",
        "What is the result of the resection from image 1 to image 2?",
    ),
    "larger": (
        "Which image shows the larger {finding}?",
        "Find the image with the larger {finding}.",
        "Compare the {finding} in image 1 and image 2. Which is larger?",
    ),
    "same_finding": (
        "Do image 1 and image 2 show the same finding?",
        "Compare image 1 and image 2. Is the finding the same or different?",
        "Is the finding in image 2 the same as in image 1?",
    ),
    "describe": ("Describe image 1.", "What does image 1 show? Describe it.", "Give a caption for image 1."),
    "which_finding": ("Which image shows {value}?", "Find the image with {value}.", "In which image is {value} seen?"),
    "which_size": ("Which image shows a {value} finding?", "In which image is the finding {value}?"),
    "which_modality": ("Which image was made by {value}?", "Find the image made by {value}."),
    "which_view": ("Which image is the {value} view?", "Find the {value} view."),
    "which_side": ("Which image shows the finding on the {value} side?", "Find the image of a {value} finding."),
    "which_margin": ("Which image shows a {value} margin?", "In which image is the margin {value}?"),
    "which_caption": ("Which image fits this caption: {value}", "Find the image of this caption: {value}"),
    "what_finding": ("What does {image} show?", "What is the finding in {image}?", "Name the finding in {image}."),
    "what_size": ("What is the size of the finding in {image}?", "How large is the finding in {image}?"),
    "what_modality": ("How was {image} made?", "What is the modality of {image}?"),
    "what_view": ("Which view is {image}?", "What is the view of {image}?"),
    "what_side": ("On which side is the finding in {image}?", "Which side of {image} shows the finding?"),
    "what_margin": ("What is the margin of the mass in {image}?", "How is the margin of the mass in {image}?"),
    "what_caption": ("Which caption fits {image}?", "What is the caption of {image}?"),
}


def word(text: str) -> str:
    """The wording of a value."""
    return WORDS.get(text, text)


def caption(study: Study) -> str:
    """A caption of an image: modality and view, then each finding with its known attributes."""
    head = " ".join([word(study.modality), *([word(study.view), "view"] if study.view else [])])
    shown = [
        ", ".join(
            [
                f"{finding.size} {word(finding.name)}" if finding.size else word(finding.name),
                *([f"{finding.side} side"] if finding.side else []),
                *([f"{finding.margin} margin"] if finding.margin else []),
            ]
        )
        for finding in study.findings
    ]
    return f"{head}: {'; '.join(shown) or NORMAL}."


def render(ask: Ask, rng: Random, closed: bool = True) -> tuple[str, tuple[str, ...], str, tuple[int, ...]]:
    """Put a question into words.

    Args:
        ask: The abstract question.
        rng: Decides phrasing and option order.
        closed: Whether options are given; a question without options is open in any case.

    Returns:
        Question, options, answer, and the indices of the right options.
    """
    about = {key: "normal anatomy" if text == NORMAL else word(text) for key, text in ask.about.items()}
    question = rng.choice(TEMPLATES[ask.family]).format(**about)
    if ask.family == "describe":
        return question, (), ask.studies[0].caption or caption(ask.studies[0]), ()
    options = [word(text) for text in rng.sample(ask.options, len(ask.options))]
    answer = word(ask.answer)
    if not closed:
        return question, (), answer, ()
    return question, tuple(options), answer, matching_options(options, ask.answer)


def matching_options(options: Sequence[str], value: str) -> tuple[int, ...]:
    """Indices of the worded options that equal the wording of a value."""
    return tuple(i for i, text in enumerate(options) if text == word(value))


def vocabulary() -> list[str]:
    """Every word that templates and captions of the phantoms can contain, sorted; for a small tokenizer."""
    from medmim.data.abilities.ask import FIXED_OPTIONS
    from medmim.data.sources.phantom_draw import CLASSES

    texts = [line.format(finding="", value="", image="") for lines in TEMPLATES.values() for line in lines]
    texts += [option for options in FIXED_OPTIONS.values() for option in options]
    texts += ["image 1", "image 2", "image 3", "normal anatomy", "first", "last", "side", "view", "margin"]
    for scene in CLASSES:
        parts = (scene.modality, scene.finding, scene.size, scene.side, scene.margin, scene.view)
        texts += [word(part) for part in parts if part]
    return sorted({token.strip(".,:;?") for text in texts for token in text.split()} - {""})

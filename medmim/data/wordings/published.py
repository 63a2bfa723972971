"""The wording of Med-MIM: the pools of stems and option sets of its published rows, synonyms and flaws included.

Read out of the five published files, but for `birads`: of its 15 stems and option sets one set is known, and the stems
here are ours. An option set is one way to word the answers; a wrong option that no answer has stands behind them.
Med-MIM added one or two further wrong options to part of the rows, from a list that depends on the right answer. Most
of them tell it (`wholly resected` stands beside a right `partially` only): docs/published-med-mim.md. So this form is
for comparison with published numbers only.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pool:
    """How a family is worded.

    Attributes:
        stems: Ways to ask.
        answers: The plain values of the options, in the order of each set. Empty: the places of the images.
        sets: For each way to word the options, the texts of `answers`, then texts that are never right.
        tied: For each stem, which sets it comes with; empty: any.
        added: Right answer -> further wrong options, of which one or two are added to part of the questions.
        share: That part.
        values: Wording of the values in a stem.
    """

    stems: tuple[str, ...]
    answers: tuple[str, ...]
    sets: tuple[tuple[str, ...], ...]
    tied: tuple[tuple[int, ...], ...] = ()
    added: dict[str, tuple[str, ...]] = field(default_factory=dict)
    share: float = 0.0
    values: dict[str, str] = field(default_factory=dict)


_NEUTRAL = ("not applicable", "no surgical intervention", "under observation")

POOLS = {
    "which_diseased": Pool(
        stems=(
            "Evaluate the images and determine which one demonstrates the most severe signs of a medical condition:",
            "Identify the image showing signs of potential breast cancer:",
            "Identify the image that most likely represents an aggressive disease state:",
            "Evaluate the images and decide which one likely shows malignant features. Select the corresponding image:",
            "Select the image that shows clear signs of disease progression:",
            "Which image most likely indicates any diseased risk based on its visual features?",
            "Evaluate the images and choose the one that appears most likely to depict a diseased condition:",
            "Which breast scan best shows signs of possible breast cancer?",
            "From these images, which one shows the most pronounced diseased risk?",
            "Which breast scan is most indicative of any diseased risk?",
            "Identify which breast scan displays the most advanced stage of disease progression:",
            "Which image indicates the most advanced disease progression?",
        ),
        answers=(),
        sets=(
            ("Image 1", "Image 2", "Image 3"),
            ("the first in sequence", "the second in sequence", "the third in sequence"),
            ("the first image", "the next image", "the last image"),
            ("the first in line", "the middle one", "the last one"),
            ("the first image", "the second image", "the third image"),
            ("the first examination", "the second examination", "the third examination"),
            ("the first in order", "the second in order", "the third in order"),
            ("the initial image", "the subsequent image", "the final image"),
            ("the first offered", "the middle offered", "the last offered"),
        ),
        tied=((1,), (2,), (1,), (7,), (4,), (0,), (3,), (5,), (8,), (6,), (0,), (2,)),
    ),
    "forecast": Pool(
        stems=(
            "Reflecting on the images taken at ages {ages}, what is the forecasted progression of the patient's "
            "condition?",
            "Based on the changes seen in the images from ages {ages}, what should we anticipate about the patient's "
            "condition in the coming year?",
            "With the observations from images at ages {ages}, what are the potential developments in the patient's "
            "condition over the next year?",
            "From the images taken at ages {ages}, what is the expected status of the patient's condition next year?",
            "Looking at the patient's images from ages {ages}, what is the most probable prediction for the patient's "
            "health next year?",
            "Given the findings from images at ages {ages}, what is the predicted status of the patient's health next "
            "year?",
            "Reviewing the diagnostic images from ages {ages}, what predictions can we make about the patient's "
            "condition in the upcoming year?",
            "Considering the sequence of images taken at ages {ages}, what are the likely changes in the patient's "
            "condition by next year?",
            "With a consideration of the images taken at ages {ages}, what can be inferred about the patient's "
            "condition for next year?",
            "Given the observations from images at ages {ages}, what is the most likely outcome for the patient's "
            "condition by next year?",
            "Considering the medical images taken at ages {ages}, what could be the likely diagnosis for the patient "
            "next year?Based on the patient's condition as observed in images from ages {ages}, what prognostic "
            "outcomes can we anticipate?",
            "Evaluating the progression in images from ages {ages}, what does the next year hold for the patient's "
            "condition?",
            "Given the historical data from images at ages {ages}, how is the patient's condition likely to progress "
            "in the next year?",
            "Analyzing the patient's medical images from ages {ages}, what conclusion can we draw about their "
            "condition in the next year?",
            "Based on the progression observed in the images taken at ages {ages}, what is the most likely status of "
            "the patient's condition in the next year?",
            "Analyzing the data from images at ages {ages}, what prediction can be made for the patient's health next "
            "year?",
        ),
        answers=("stable", "worse"),
        sets=(
            (
                "Unchanged health outlook", "Probable health deterioration", "Likely condition improvement",
                "Need for further diagnostic assessment",
            ),
            (
                "Stable diagnosis with no immediate change", "Likelihood of progressive symptoms",
                "Improvement plausible with new treatments",
            ),
            (
                "Patient's condition likely to hold steady", "Potential for clinical worsening",
                "Signs of health improvement", "Fluctuations in condition possible",
            ),
            (
                "Condition expected to remain stable", "Deterioration of health possible",
                "Probable therapeutic response",
            ),
            (
                "Health likely to remain unaltered", "Potential for adverse development",
                "Signs of potential improvement", "Reevaluation crucial",
            ),
            (
                "Continuity in current health status", "Increased probability of condition worsening",
                "Chance of gradual recovery", "Ongoing review recommended",
            ),
            (
                "Status quo expected to remain", "Deterioration of condition foreseeable",
                "Slight improvement possible with adjustments in care",
            ),
            (
                "Maintaining health without significant shifts", "Concern for health decline",
                "Possible positive response to treatment", "Surveillance required",
            ),
            ("Persistent stable condition", "Risk of further health complications", "Possible short-term improvement"),
            (
                "Consistent condition with no major changes", "Possibility of disease progression",
                "Likely recovery with intensive management", "Stable under current therapeutic measures",
            ),
            (
                "Condition expected to stabilize", "Potential decline in patient's health",
                "Moderate improvement expected", "Condition may vary",
            ),
            (
                "Stable health with no significant progression", "Risk of disease escalation",
                "Improvement possible with treatment", "Outcome remains uncertain",
            ),
            (
                "No significant developments expected", "Likelihood of condition decline",
                "Intermittent improvements with possible setbacks", "Stability possible with current treatments",
            ),
            (
                "Expected to uphold current health level", "Prospect of disease advancement",
                "Prospect of recovery with intensive care", "Stable with current medical intervention",
            ),
            (
                "No significant transformation expected", "Possible worsening of the patient's clinical state",
                "Likely betterment with ongoing therapy",
            ),
            (
                "No change in the patient's status", "Worsening of symptoms expected", "Initial recovery signs",
                "Continuous monitoring required",
            ),
            (
                "No anticipated changes in health", "Possible escalation in medical issues",
                "Recovery feasible with optimal care", "Further investigations needed",
            ),
            (
                "Expected to maintain present health status", "Possible aggravation of the disease",
                "Positive response to ongoing treatments likely",
            ),
            ("Maintaining current condition", "Increased risk of disease progression", "Temporary relief anticipated"),
            (
                "Stability with no major changes", "Progression of the condition likely",
                "Some signs of improvement", "Reevaluation needed",
            ),
        ),
    ),
    "which_craniocaudal": Pool(
        stems=(
            "Which of these breast scans is in the Craniocaudal (CC) view?",
            "Identify the breast scan in the CC view from these options.",
            "Determine which of these breast scans shows the CC view.",
            "From the displayed sequence, which breast scan is in the Craniocaudal (CC) view?",
            "Which scan below shows the Craniocaudal view?",
            "Which of these is the Craniocaudal (CC) view breast scan?",
            "Which image represents the CC view in these breast scans?",
            "Which scan below shows the CC view?",
            "Identify the CC view among the following scans.",
            "Identify the breast scan in the Craniocaudal view from these options.",
            "Determine which of these breast scans shows the Craniocaudal view.",
            "Which breast scan is taken from the Craniocaudal (CC) perspective?",
        ),
        answers=(),
        sets=(
            ("The first image", "The second image", "The third image"),
            ("Image at position one", "Image at position two", "Image at position three"),
            ("The very first image", "The second image", "The last image"),
            ("The first image", "The second image", "The last image"),
            ("Image one", "Image two", "Image three"),
            ("Image at the top", "Image in the center", "Image at the bottom"),
            ("First displayed image", "Second displayed image", "Third displayed image"),
            ("Initial scan", "Subsequent scan", "Final scan"),
            ("The first listed image", "The second listed image", "The third listed image"),
            ("First in the series", "Second in the series", "Third in the series"),
        ),
        tied=((0,), (0, 4), (1,), (3, 5), (2, 3), (6,), (7,), (2,), (8,), (3,), (1,), (9,)),
    ),
    "birads": Pool(
        stems=(
            "Based on these two breast images, what is the most likely assessment?",
            "How would you assess the breast in these two views?",
        ),
        answers=(
            "negative", "benign", "probably benign", "additional evaluation needed", "suspicious",
            "highly suggestive of malignancy", "known malignancy",
        ),
        sets=(
            (
                "no evidence of cancer", "non-malignant abnormalities", "probable benign condition",
                "further evaluation needed", "potentially malignant abnormalities", "presumed malignant",
                "biopsy-confirmed malignancy",
            ),
        ),
    ),
    "which_sequence": Pool(
        stems=(
            "Evaluate the images of brain and determine which one is a {value} MRI scan.",
            "Which image from these brain scans is obtained from {value} MRI?",
            "In these images of brain, which one depicts a {value} MRI scan?",
            "Select the brain scan image that is obtained from {value} MRI.",
            "In these images of the brain, which one shows a {value} MRI scan?",
            "Identify the brain image that represents a {value} MRI scan from the following images.",
            "In these brain images, which one is a {value} MRI scan?",
            "Which of these brain images illustrates a {value} MRI scan?",
            "Evaluate the images and choose the one that is scanned using {value} MRI.",
            "In these brain images, which one is taken using {value} MRI?",
            "Which of these brain scans shows a {value} MRI image?",
            "In these brain images, which one utilizes {value} MRI technology?",
        ),
        answers=(),
        sets=(
            ("the first image", "the second image", "the third image"),
            ("the first image", "the middle image", "the last image"),
            ("Image 1", "Image 2", "Image 3"),
            ("the first image", "the second one", "the last image"),
            ("the first image", "the second image", "the last image"),
            ("the first one", "the second one", "the last one"),
            ("the first in sequence", "the second in sequence", "the third in sequence"),
            ("the first in order", "the second in order", "the third in order"),
            ("the first in line", "the second image", "the last one"),
        ),
        values={
            "T1": "T1-weighted pre-contrast",
            "CT1": "T1-weighted post-contrast",
            "T2": "T2-weighted",
            "FLAIR": "fluidattenuated inversion recovery (FLAIR)",
        },
    ),
    "extent_of_resection": Pool(
        stems=(
            "The first picture is the MRI before surgery, and the second is after. How would you classify the "
            "enhancing tumor removal?",
            "The first picture is the MRI before surgery, and the second is after. What is the extent of the "
            "enhancing tumor resection shown in these images?",
            "The first MRI image shows the enhancing tumor before surgery, and the second shows it afterwards. To what "
            "degree has the enhancing tumor been resected?",
            "The first image is an MRI taken prior to the operation, while the second image is after the procedure. "
            "What is the extent of the enhancing tumor resection?",
            "The first image displays the MRI prior to the surgical intervention, and the second displays it "
            "post-surgery. To what extent was the enhancing tumor resected?",
            "The first image is the MRI scan before the operation, while the second image shows the post-operative "
            "state. How would you assess the enhancing tumor's resection?",
            "The first image is the brain MRI before treatment, and the second is after treatment. How would you "
            "evaluate the enhancing tumor's resection?",
            "The first image shows the brain MRI before treatment, and the second image shows it after treatment. "
            "Based on the images, how would you categorize the enhancing tumor's resection?",
            "The first image illustrates the MRI prior to the operation, and the second image is after. What can be "
            "inferred about the enhancing tumor's status?",
            "The first MRI shows the enhancing tumor before the surgical procedure, while the second MRI shows the "
            "result post-surgery. What is the extent of the enhancing tumor removal?",
            "The first MRI shows the enhancing tumor prior to the intervention, and the second shows the state after. "
            "What is the extent of the resection?",
        ),
        answers=("complete", "partial"),
        sets=(
            ("entirely resected", "partially resected"),
            ("complete resection", "partial resection"),
            ("completely resected", "partially resected"),
            ("complete", "partial"),
            ("fully resected", "partially resected"),
            ("completely", "partially"),
        ),
        added={
            "complete": ("incomplete resection", "incompletely resected", "limited resection", *_NEUTRAL),
            "partial": ("wholly resected", "radical resection", "totally excised", *_NEUTRAL),
        },
        share=0.34,
    ),
    "tumor_course": Pool(
        stems=(
            "In light of the first image, how would you categorize the brain tumor in the second image: progressive or "
            "stable?",
            "Looking at the second image versus the first, what can be inferred about the brain tumor: progressing or "
            "stable?",
            "Relative to the first image, what can be said about the brain tumor in the second image: advancing or "
            "stable?",
            "In relation to the first image, what can be said about the brain tumor in the second image: deteriorating "
            "or stable?",
            "In comparison to the first image, what can be concluded about the brain tumor status of the second image: "
            "stable or worsening?",
            "Compared to the first image, how would you assess the brain tumor in the second image: deteriorating or "
            "stable?",
            "When comparing the second image to the first one, what can be inferred about the brain tumor: worsening "
            "or stable?",
            "Compared with the initial image, how would you assess the brain tumor status in the second image: stable "
            "or worsening?",
            "In comparison to the initial image, how would you classify the brain tumor of the second image: "
            "progressive or stable?",
        ),
        answers=("stable disease", "progressive disease"),
        sets=(
            ("stable condition", "deteriorating condition"),
            ("stable disease", "progressive disease"),
            ("stable", "advancing"),
            ("stable", "progressing"),
            ("stable", "deteriorating"),
            ("stable disease", "worsening disease"),
            ("stable condition", "worsening condition"),
            ("stable", "worsening"),
            ("stable", "progressive"),
        ),
        tied=((1,), (3,), (2,), (0,), (6,), (4,), (5,), (7,), (8,)),
        added={
            "progressive disease": (
                "no significant change", "no new symptoms", "recovering well", "under observation"
            ),
            "stable disease": ("under observation", "fluctuating symptoms"),
        },
        share=0.32,
    ),
    "progression": Pool(
        stems=(
            "Based on the visual information from the X-ray images, what can be inferred about the progression of the "
            "patient's condition?",
            "Based on the visual information from the X-ray images, which of the following best describes the "
            "progression of the patient's condition related to the {finding} disease?",
            "Based on the X-ray images, what can be observed about the {finding} disease?",
            "What change is observed between the first and second X-ray images?",
            "What change can be observed between the first and second X-ray images?",
        ),
        answers=("improved", "stable", "worse"),
        sets=(
            ("The {finding} has improved", "The {finding} has remained stable", "The {finding} has worsened"),
            (
                "The {finding} has improved.", "The {finding} has remained stable.", "The {finding} has worsened.",
                "The {finding} has resolved completely.",
            ),
            (
                "The {finding} has improved", "The {finding} has remained stable", "The {finding} has worsened",
                "The {finding} has resolved",
            ),
            ("The {finding} has improved", "The {finding} is stable", "The {finding} has worsened"),
            ("The {finding} has improved", "The {finding} remains stable", "The {finding} has worsened"),
        ),
    ),
}  # fmt: skip

# ODIR: three stems; beside the right option three wrong ones, or two and the right one again in a third of the rows.
EYES = {
    "eye_diagnosis": ("What is the diagnosis for the {place} fundus image?",),
    "both_eyes": ("What are the diagnoses for the first and second fundus images?",),
}
PLACES = {"image 1": "first", "image 2": "second"}
EYE_DISEASES = (
    "diabetic retinopathy", "normal fundus", "glaucoma", "retinal detachment", "cataract", "macular degeneration",
    "epiretinal membrane", "drusen",
)  # fmt: skip
TWICE = 1 / 3

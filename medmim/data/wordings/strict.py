"""The wording of questions on the real sources in our own form: no option is a synonym of another.

Whatever stands in these tables, each option is the wording of another value, so a question has exactly one right one.
"""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "which_diseased": (
        "The images show one breast at different exams. Which image shows a breast with suspected or proven cancer?",
        "All images are of the same breast. In which image is cancer suspected or proven?",
        "One of these exams of a breast is suspicious of cancer or shows proven cancer. Which image is it?",
    ),
    "forecast": (
        "The images show one breast at ages {ages}, in this order. What happens in the year after the last image?",
        "These mammograms of one breast were taken at ages {ages}. What does the following year bring?",
        "A breast was imaged at ages {ages}. What is found within one year after the last image?",
    ),
    "which_craniocaudal": (
        "Which image is the craniocaudal (CC) view of the breast?",
        "Find the craniocaudal view; the other images are mediolateral oblique.",
        "In which image is the breast seen from above, in the CC view?",
    ),
    "birads": (
        "Image 1 is the CC view and image 2 the MLO view of one breast. What is the BI-RADS assessment?",
        "Read both views of the breast together, CC and MLO. Which BI-RADS assessment fits?",
        "Which BI-RADS assessment do these two views of one breast support?",
    ),
    "which_sequence": (
        "All images show the same slice of a brain. Which image is {value}?",
        "Which image was acquired as {value}?",
        "Find the image that is {value}.",
    ),
    "extent_of_resection": (
        "Image 1 was taken before surgery, image 2 after. Was the enhancing tumor removed completely or partially?",
        "Compare the enhancing tumor before (image 1) and after surgery (image 2). What is the extent of resection?",
        "What is the extent of resection of the enhancing tumor from image 1 to image 2?",
    ),
    "tumor_course": (
        "Image 2 was taken after image 1. Which RANO category does the tumor in image 2 have?",
        "Two visits of a patient with glioblastoma, the later one last. What is the RANO response at image 2?",
        "In the light of image 1, what is the RANO category of image 2?",
    ),
    "progression": (
        "Image 2 was taken after image 1. How did the {finding} change?",
        "What became of the {finding} between image 1 and image 2?",
        "Compare the {finding} in image 2 with that in the earlier image 1. What is its course?",
    ),
    "eye_diagnosis": (
        "Image 1 is the left and image 2 the right eye of a patient. What is the diagnosis of {image}?",
        "Which diagnosis fits the fundus in {image}?",
        "What does the fundus in {image} show?",
    ),
    "which_eye": (
        "Image 1 is the left and image 2 the right eye of a patient. Which image shows {value}?",
        "Which of the two fundus images shows {value}?",
        "In which image is {value} seen?",
    ),
    "both_eyes": (
        "What are the diagnoses of the first and the second fundus image?",
        "Which diagnosis belongs to which of the two eyes?",
        "Name the diagnosis of each of the two fundus images.",
    ),
    "shared_diagnosis": (
        "What do both eyes of this patient show?",
        "Both fundus images have the same diagnosis. Which?",
        "Which diagnosis do the two images have in common?",
    ),
    "same_diagnosis": (
        "Are the diagnoses of the two fundus images the same or different?",
        "Do both eyes of this patient have the same diagnosis?",
        "Compare both fundus images. Is the diagnosis the same or different?",
    ),
    "joined": (
        "The images are of unrelated cases. {questions}",
        "Answer for each image. {questions}",
    ),
    "joined_figures": (
        "The images are of different patients. {questions}",
        "Answer for each image. {questions}",
    ),
    "which_figure": (
        "Which image shows {value}?",
        "In which of the images is {value} seen?",
        "Find the image with {value}.",
    ),
    "match_figure": (
        "Which image fits this caption: {value}",
        "To which image does this description belong: {value}",
    ),
    "match_caption": (
        "Which caption fits {image}?",
        "What is the caption of {image}?",
        "Which of these describes {image}?",
    ),
    "same_modality": (
        "Were both images made by the same modality or by different ones?",
        "Is the imaging modality of image 1 and image 2 the same or different?",
    ),
}

# Wording of a value in a question or an option of a family, where it is not the value itself.
VALUES: dict[str, dict[str, str]] = {
    "forecast": {"stable": "no cancer is found", "worse": "cancer is found"},
    "which_sequence": {
        "T1": "T1-weighted without contrast",
        "CT1": "T1-weighted with contrast",
        "T2": "T2-weighted",
        "FLAIR": "fluid-attenuated inversion recovery (FLAIR)",
    },
    "extent_of_resection": {"complete": "complete resection", "partial": "partial resection"},
    "progression": {"improved": "it improved", "stable": "it is unchanged", "worse": "it became worse"},
}

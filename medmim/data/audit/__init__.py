"""The audit of a data set: named checks, each a figure that the recipe's section `audit` may limit.

    check.py         Check and Row, and how limits are read
    run.py           the stage: makes and finds the artifact, refuses what crosses a limit
    leakage.py       patients, image sets and images (by bytes) that splits share; the clean benchmark rows
    decoded.py       a row for each picture: decoded once, by threads, resumable
    fingerprints.py  of each image a digest of its pixels and a perceptual hash, made once
    nearest.py       the nearest of many perceptual hashes
    pictures.py      images that splits share by pixels, and that look alike
    questions.py     questions that are asked again
    types.py         the rows of each type; text_only.py, balance.py: what their texts and answers give away
    identifiers.py   what may name a patient in texts; burned_in.py: in pictures
    known_names.py   names of a hospital's own list, read when a data set is judged and kept nowhere
    page.py          the page for people

To add a check: a module named after what it looks at, with a function that takes the samples (all splits) and returns a
list of `check.Check`; one line in `run.audit_artifact`; where it can be limited, a key of `recipe.schema.Audit` whose
default the shipped recipes pass (`None`: told, not limited), named by `Check.key`. A key limits from above: the check
is crossed where `low` (the lower end of its interval), or `value` where it has none, is greater than the key's value.
A check that could not be measured has the value None and says why in `note`; it is printed, and crosses nothing.
Nothing else is needed: table, page and JSON of `medmim data audit`, the stage's facts and the console show every check.

The artifact holds `audit.json` (`checks`: figures and the number of rows, no limits), `rows.jsonl` (every row that a
check has found: check, id, file, found) and `clean.jsonl`. Limits are read when the report is: to change one makes no
audit again. A setting that changes what is measured goes into the step's key (`run._settings`), a change of the bytes
into `run.REVISION` (`run.find` shows audits of earlier ones). No patient and no found identifier is written into
`found`, which pages show to everybody.
"""

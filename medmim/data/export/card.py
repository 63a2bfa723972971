"""The card of an export, README.md: what is in it, how to use it, its terms of use; the header is for `datasets`."""

import json
from collections import Counter
from collections.abc import Mapping

from medmim import terms
from medmim.data import people
from medmim.data.export import form
from medmim.data.export.form import Splits, Written
from medmim.terms import Terms

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def text(name: str, data: str, splits: Splits, left_out: Mapping[str, int], allowed: Terms, written: Written) -> str:
    """The card; equal rows give an equal one.

    Args:
        name: The format.
        data: Digest of the data set.
        splits: The rows.
        left_out: Reason -> rows.
        allowed: Terms of the data set.
        written: What the format says.
    """
    files = "\n".join(f"| {split} | `{written.files[split]}` | {len(rows):,} |" for split, rows in splits.items())
    abilities = Counter((one.ability, split) for split, rows in splits.items() for one in rows)
    counts = "\n".join(
        f"| {ability} | " + " | ".join(f"{abilities[ability, split]:,}" for split in splits) + " |"
        for ability in sorted({ability for ability, _ in abilities})
    )
    sources = "\n".join(f"* {source}: {n:,} rows" for source, n in sorted(_by_source(splits).items()))
    patients = {who for one in form.rows(splits) for who in people.of_sample(one)}
    refused = "\n".join(f"* {count:,} rows: {reason}" for reason, count in sorted(left_out.items()))
    measured = " and ".join(f"`{written.files[split]}`" for split in form.uses(splits)[1])
    warning = f"\n**Never train on {measured}**: a model that has seen it is not measured by it.\n" if measured else ""
    missing = f"\nLeft out, in `left_out.jsonl` by row:\n\n{refused}\n" if left_out else ""
    return f"""{_header(splits, allowed, written)}
# Questions on several medical images, for {name}

Written by medmim from the data set `{data}`: {len(patients):,} patients, {len(form.all_images(splits)):,} images.

| split | file | rows |
|---|---|---|
{files}

| ability | {" | ".join(splits)} |
|---{"|---" * len(splits)}|
{counts}

{sources}
{missing}
## How to use it
{warning}
{written.usage}
{terms_section(allowed)}"""


def terms_section(allowed: Terms) -> str:
    """The part of a card that says the terms of use."""
    refusals = terms.reasons(allowed, terms.FLAGS)
    listed = "\n".join(f"* {line}" for line in (*allowed.text, *refusals))
    keep = (
        "\n**Keep this folder to yourself**: nobody may pass on these images and questions.\n"
        if not allowed.redistribute_data
        else ""
    )
    return f"""## Terms of use
{keep}
`{terms.FILE}` has them for programs.

{listed}
"""


def _header(splits: Splits, allowed: Terms, written: Written) -> str:
    """What the hub and `datasets` read: JSON is YAML."""
    licence = terms.name_of(allowed)
    known = {"license": licence} if licence == "apache-2.0" else {"license": "other", "license_name": "see-below"}
    rows = sum(map(len, splits.values()))
    facts = {
        **known,
        "task_categories": ["visual-question-answering"],
        "tags": ["medical", "multi-image"],
        "size_categories": [next((size for limit, size in _SIZES if rows < limit), "n>1M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": written.files[split]} for split in splits],
            }
        ],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in facts.items()), "---", ""])


def _by_source(splits: Splits) -> Counter[str]:
    return Counter(one.source for one in form.rows(splits))

"""All pairs of a data set as ids and labels: which fit, and which do not.

By hand: no notebook exports it.
"""

from instruct_course.common.errors import InputError
from instruct_course.data.encoded_rows import EncodedRows
from instruct_course.data.pairs import encode_pairs, pair
from instruct_course.data.template import Template

__all__ = ["encode_pair_rows"]
BLOCK = 250  # pairs that are tokenized together


def encode_pair_rows(rows, template: Template, tokenizer, config) -> EncodedRows:
    """All pairs of a data set for a model.

    Args:
        rows: pairs as `pairs.load_pairs` gives them.
        template, tokenizer: how they are written.
        config: has `max_length`; and `skip_bad`, for `check` of what is returned.

    Returns:
        `encoded` holds (chosen, rejected) per pair; its `check` refuses pairs that do not fit, by
        file and row.
    """
    made = EncodedRows()
    for start in range(0, len(rows), BLOCK):
        block = rows.select(range(start, min(start + BLOCK, len(rows))))
        pairs = [pair(row) for row in block]
        encoded = encode_pairs(template, tokenizer, pairs, max_length=config.max_length)
        for i, (row, two) in enumerate(zip(block, encoded)):
            if isinstance(two, InputError):
                made.bad.append(_reject(row, str(two)))
            else:
                made.encoded.append(two)
                made.kept.append(start + i)
    return made


def _reject(row: dict, reason: str) -> dict:
    """A pair that does not fit, as rejects.jsonl has it."""
    names = {"instruction": "instruction", "input": "input", "chosen": "output"}
    content = {name: row[column] for name, column in names.items()}
    content |= {"rejected": row["rejected"]}
    return {"file": row["file"], "row": row["row"], "reason": reason, "content": content}

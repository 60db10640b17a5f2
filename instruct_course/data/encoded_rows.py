"""All rows of a data set as ids and labels: which fit, which do not, and what was cut.

By hand: no notebook exports it.
"""

from dataclasses import dataclass, field

from instruct_course.common.errors import InputError
from instruct_course.data import dataset
from instruct_course.data.conversation import encode_all
from instruct_course.data.example import Example
from instruct_course.data.template import Encoded, Template

__all__ = ["EncodedRows", "encode_rows"]
BLOCK = 500  # rows that are tokenized together


@dataclass
class EncodedRows:
    """The rows of a data set for a model.

    Attributes:
        encoded: rows to train on; a conversation may have become several.
        kept: the numbers of the rows of the data set that are among them.
        bad: the others: file, row, reason and content, as rejects.jsonl has them.
        too_long: conversations that are too long to be judged by, likewise.
        conversations, answers: rows with earlier turns, and the answers in them that are learnt.
        split: conversations that became a row per answer.
        shortened, cut: conversations without their last answers, and how many those are.
    """

    encoded: list[Encoded] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    bad: list[dict] = field(default_factory=list)
    too_long: list[dict] = field(default_factory=list)
    conversations: int = 0
    answers: int = 0
    split: int = 0
    shortened: int = 0
    cut: int = 0

    def add(self, number: int, ex: Example, made: list[Encoded]) -> None:
        """Row `number` became the rows `made`."""
        self.encoded += made
        self.kept.append(number)
        if not ex.history:
            return
        cut = sum(row.turns_cut for row in made)
        said = [turn for turn in ex.history if turn.role == "assistant" and turn.supervised]
        self.conversations += 1
        self.answers += len(said) + 1 - cut
        self.split += len(made) > 1
        self.shortened += cut > 0
        self.cut += cut

    def check(self, config) -> None:
        """Raise InputError where rows do not fit and no --skip-bad, or where no row is left."""
        if self.bad and not config.skip_bad:
            first = self.bad[0]
            rows = len(self.kept) + len(self.bad) + len(self.too_long)
            raise InputError(
                f"{first['file']}, row {first['row']}: {first['reason']} ({len(self.bad):,} of "
                f"{rows:,} rows do not fit; --skip-bad goes on without them)"
            )
        if not self.kept:
            raise InputError(
                f"--max-length {config.max_length}: no row fits into so few tokens; raise it"
            )

    def lines(self, config) -> list[str]:
        """What is worth saying about conversations, a line each; mostly nothing."""
        if not self.conversations:
            return []
        learnt = "their last answers" if config.turns == "last" else f"{self.answers:,} answers"
        said = [f"{self.conversations:,} rows are conversations: {learnt} are learnt"]
        if self.split:
            said.append(
                f"the model's template rewrites earlier turns: {self.split:,} conversations "
                "became a row per answer"
            )
        if self.shortened:
            said.append(
                f"{self.shortened:,} conversations are longer than {config.max_length:,} tokens: "
                f"their last {self.cut:,} answers are left out (--max-length)"
            )
        return said


def encode_rows(
    rows, template: Template, tokenizer, config, *, judged: bool = False
) -> EncodedRows:
    """All rows of a data set for a model.

    Args:
        rows: a data set as `dataset.load` gives it.
        template, tokenizer: how they are written.
        config: has `max_length`, `truncate_response`, `turns` and `skip_bad`.
        judged: the rows are judged by, not trained on: a conversation that does not fit whole is
            left out.
    """
    made = EncodedRows()
    for start in range(0, len(rows), BLOCK):
        block = rows.select(range(start, min(start + BLOCK, len(rows))))
        examples = [dataset.example(row) for row in block]
        encoded = encode_all(
            template,
            tokenizer,
            examples,
            max_length=config.max_length,
            truncate_response=config.truncate_response,
            turns=config.turns,
        )
        for i, (ex, row, got) in enumerate(zip(examples, block, encoded)):
            if isinstance(got, InputError):
                made.bad.append(_reject(row, str(got)))
            elif judged and any(part.turns_cut for part in got):
                made.too_long.append(_reject(row, "the conversation does not fit whole"))
            else:
                made.add(start + i, ex, got)
    return made


def _reject(row: dict, reason: str) -> dict:
    """A row that does not fit, as rejects.jsonl has it."""
    content = {name: row[name] for name in ("instruction", "input", "output")}
    return {"file": row["file"], "row": row["row"], "reason": reason, "content": content}

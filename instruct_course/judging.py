"""What a run says to held-out rows, before and after it learnt.

By hand: no notebook exports it.
"""

from instruct_course import pair_rows, verifiable_rows
from instruct_course.common.files import write_json
from instruct_course.evaluate.answers import Answers, best_prompt, predict, subsample
from instruct_course.job import Job, Judged, Rows, Student

__all__ = ["judge_base", "judge_tuned"]


def _judge(job: Job, student: Student, rows: Rows, what: str, most: int | None) -> Answers:
    """What the student says to the held-out rows, and what their responses cost it."""
    if rows.held_prompts is not None:  # it answers these, and of other rows only the loss is taken
        most = 0
    return predict(
        student.model,
        student.base.tokenizer,
        student.template,
        rows.examples,
        most=most,
        max_length=job.config.max_length,
        max_new_tokens=job.budget.new_tokens,
        batch_size=job.budget.batch_size,
        batch_tokens=max(job.config.batch_tokens, 2048),
        what=what,
        progress=job.progress,
    )


def judge_base(job: Job, student: Student, rows: Rows) -> Judged | None:
    """How the base does, or the run that was started from; what an earlier start found is kept."""
    if not job.is_first:
        return None
    if kept := job.partial.read("before.json"):
        answers = Answers.parse(kept, rows.examples)
        others = {name: kept.get(name, []) for name in ("pairs", "instructions")}
        return Judged(answers, kept["best_prompt"], **others)
    name = "start" if job.start else "base"
    answers = _judge(job, student, rows, name, job.budget.answers_before)
    others = _judge_others(job, student, rows, name)
    prompted = None
    if job.budget.prompted and answers.asked and not job.start:
        prompted = best_prompt(
            student.model,
            student.base.tokenizer,
            subsample(answers.asked, job.budget.prompted),
            rows.first_train(4000),
            max_new_tokens=min(job.budget.new_tokens, 48),
            progress=job.progress,
        )
    kept = answers.facts() | {"best_prompt": prompted} | others
    write_json(job.partial.folder / "before.json", kept)
    return Judged(answers, prompted, **others)


def _judge_others(job: Job, student: Student, rows: Rows, what: str) -> dict[str, list]:
    """What a `Judged` has beside the held-out rows: pairs and verifiable instructions."""
    found = {"pairs": [], "instructions": []}
    if rows.encoded_pairs:
        found["pairs"] = pair_rows.judge(job, student, rows, what)
    if rows.held_prompts is not None:
        found["instructions"] = verifiable_rows.judge(job, student, rows, what)
    return found


def judge_tuned(job: Job, student: Student, rows: Rows, history: list[dict]) -> Judged | None:
    """How the tuned model does; None where Ctrl-C came, or in other processes than the first."""
    if not job.is_first:
        return None
    stopped = history[-1].get("interrupted")
    most = job.budget.answers_if_stopped if stopped else job.budget.answers_after
    try:
        answers = _judge(job, student, rows, "tuned", most)
        return Judged(answers, **_judge_others(job, student, rows, "tuned"))
    except KeyboardInterrupt:
        return None

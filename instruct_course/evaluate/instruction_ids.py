"""Rows of IFEval in the form of the field: `prompt`, `instruction_id_list`, `kwargs`.

By hand: no notebook exports it.
"""

from dataclasses import dataclass, field

from instruct_course.data.writing import language

__all__ = ["INSTRUCTIONS", "Known", "own_form"]
RELATIONS = ("at least", "less than")


@dataclass(frozen=True)
class Known:
    """How an instruction of IFEval is checked here.

    Attributes:
        name: the checker.
        renamed: {argument of IFEval: argument of the checker}.
        count: the argument of IFEval that is a number; "" where there is none.
        bound: "relation", where the row says how the number binds, else at_least or exactly.
        fixed: arguments of the checker that are always the same.
        only: {argument of IFEval: the values that the checker knows}.
    """

    name: str
    renamed: dict[str, str] = field(default_factory=dict)
    count: str = ""
    bound: str = "relation"
    fixed: dict = field(default_factory=dict)
    only: dict[str, tuple] = field(default_factory=dict)

    @property
    def takes(self) -> list[str]:
        """The arguments of IFEval."""
        counted = [self.count] if self.count else []
        relation = ["relation"] if self.count and self.bound == "relation" else []
        return [*dict.fromkeys((*self.renamed, *self.only)), *counted, *relation]


CONSTRAINED = ["My answer is yes", "My answer is no", "My answer is maybe"]
INSTRUCTIONS = {
    "keywords:existence": Known("includes", {"keywords": "words"}),
    "keywords:forbidden_words": Known("excludes", {"forbidden_words": "words"}),
    "keywords:frequency": Known("mentions", {"keyword": "word"}, "frequency"),
    "language:response_language": Known(
        "language", {"language": "kind"}, only={"language": ("en", "zh")}
    ),
    "length_constraints:number_sentences": Known("sentences", count="num_sentences"),
    "length_constraints:number_words": Known("length", count="num_words"),
    "detectable_content:number_placeholders": Known(
        "placeholders", count="num_placeholders", bound="at_least"
    ),
    "detectable_content:postscript": Known("postscript", only={"postscript_marker": ("P.S.",)}),
    "detectable_format:number_bullet_lists": Known(
        "items", count="num_bullets", bound="exactly", fixed={"kind": "bullets"}
    ),
    "detectable_format:constrained_response": Known("one_of", fixed={"options": CONSTRAINED}),
    "detectable_format:number_highlighted_sections": Known(
        "highlights", count="num_highlights", bound="at_least"
    ),
    "detectable_format:json_format": Known("json"),
    "detectable_format:title": Known("titled"),
    "combination:two_responses": Known("two_answers"),
    "combination:repeat_prompt": Known("repeats", {"prompt_to_repeat": "request"}),
    "startend:end_checker": Known("ends_with", {"end_phrase": "phrase"}),
    "startend:quotation": Known("quoted"),
    "change_case:english_capital": Known("case", fixed={"kind": "upper"}),
    "change_case:english_lowercase": Known("case", fixed={"kind": "lower"}),
    "punctuation:no_comma": Known("no_commas"),
}  # twenty of IFEval's twenty-five; a checker may be a little stricter or looser than IFEval's
TEXTS = ("keywords", "forbidden_words")  # arguments that are lists of texts


def own_form(row: dict) -> dict:
    """A row of IFEval as `ifeval.parse` reads its own.

    Args:
        row: an object with prompt, instruction_id_list and kwargs, one object per id; arguments
            that are null are not there. Other columns, such as key, are not looked at.

    Raises:
        ValueError: it names the field that is wrong, and says how to mend it.
    """
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("the field 'prompt' is missing or empty; write what is asked as a text")
    ids = row.get("instruction_id_list")
    if not isinstance(ids, list) or not ids:
        raise ValueError(
            "the field 'instruction_id_list' is missing or empty; give the ids of what the answer "
            'must follow, such as ["punctuation:no_comma"]'
        )
    arguments = row.get("kwargs")
    if arguments is None:
        arguments = [{}] * len(ids)
    if not isinstance(arguments, list) or len(arguments) != len(ids):
        raise ValueError(
            f"the field 'kwargs' does not fit; give a list of {len(ids)} objects, one per id"
        )
    checks = [_check(n, id, given) for n, (id, given) in enumerate(zip(ids, arguments), 1)]
    lang = "zh" if language(prompt) == "zh" else "en"
    answer = row.get("answer", "")
    return {"instruction": prompt, "lang": lang, "checks": checks, "answer": answer}


def _check(number: int, id: str, given: dict | None) -> dict:
    """One instruction as a check; raises ValueError."""
    known = INSTRUCTIONS.get(id) if isinstance(id, str) else None
    if known is None:
        raise ValueError(
            f"the field 'instruction_id_list', number {number}: no checker knows {id!r}; "
            f"leave the row out, or use one of {', '.join(INSTRUCTIONS)}"
        )
    if not isinstance(given, dict | None):
        raise ValueError(f"the field 'kwargs', number {number} is not an object; write {{}}")
    given = {name: value for name, value in (given or {}).items() if value is not None}
    where = f"the field 'kwargs', number {number}: '{id}'"
    for name in given:
        if name not in known.takes:
            takes = ", ".join(known.takes) or "no arguments"
            raise ValueError(f"{where} takes no '{name}'; it takes {takes}")
    for name in known.takes:
        if name not in given:
            raise ValueError(f"{where} needs '{name}'; add it")
        if expected := _expected(known, name, given[name]):
            raise ValueError(f"{where} has the {name} {given[name]!r}; make it {expected}")
    named = {argument: given[name] for name, argument in known.renamed.items()}
    return {"name": known.name} | known.fixed | named | _bounds(known, given)


def _expected(known: Known, name: str, value) -> str:
    """What the value of an argument should be; empty where it is."""
    if name in known.only or name == "relation":
        choices = known.only.get(name, RELATIONS)
        return "" if value in choices else " or ".join(f'"{choice}"' for choice in choices)
    if name == known.count:
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return "" if fits else "a whole number, 1 or more"
    if name in TEXTS:
        fits = isinstance(value, list) and value and all(map(_is_text, value))
        return "" if fits else "a list of texts"
    return "" if _is_text(value) else "a text"


def _is_text(value) -> bool:
    """Whether it is a text that holds something."""
    return isinstance(value, str) and bool(value.strip())


def _bounds(known: Known, given: dict) -> dict:
    """The bound that a number sets."""
    if not known.count:
        return {}
    number = given[known.count]
    if known.bound != "relation":
        return {known.bound: number}
    if given["relation"] == "at least":
        return {"at_least": number}
    return {"at_most": number - 1}

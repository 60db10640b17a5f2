"""Make the built-in preference pairs from the built-in rows: `python -m tools.make_pairs`.

Writes instruct_course/assets/preferences/{train,held}.jsonl, and their hashes to tools/pairs.json.
A pair is a row's question, its answer, and a worse answer of one of six `KINDS`. Training pairs
are of training rows, held-out pairs of the evaluation splits. No worse answer of a training pair
tells a fact or a word of the dictionary that an evaluation split asks for.
"""

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from instruct_course.common.files import ASSETS, write_file, write_json
from tools.nano.tasks import (
    MORE,
    RELATIONS,
    SEP,
    L,
    facts,
    wordings,
)
from tools.nano.world import (
    COUNTRY_LIST,
    DEEDS,
    NUMBER_WORDS,
    PEOPLE_LIST,
    TOPICS,
    WORD_LIST,
    pairs,
)

__all__ = ["HELD", "KINDS", "LOG", "SEED", "World", "make", "texts"]
SEED = 2026
KINDS = ("wrong", "off_task", "cut", "language", "repeated", "long")
HELD = ("dev", "inputs", "wordings", "knowledge")  # the splits of held-out pairs
PER_CELL = {"train": 14, "held": 3}  # pairs per kind, task and language
LOG = Path(__file__).parent / "pairs.json"
OTHER = {"en": "zh", "zh": "en"}
LISTS = ("first", "last", "count", "reverse")
NUMBERS = ("sort", "largest")
SENTIMENTS = (("positive", "正面"), ("negative", "负面"))
MORE_TEXT = {
    "en": (
        "I hope this helps. Tell me if you have another question.",
        "This is the answer because I looked at the question with care.",
        "There are many other things that one could say about this.",
        "It is always good to ask, and I am happy to answer every day.",
    ),
    "zh": (
        "希望这对你有帮助。如果还有问题，请告诉我。",
        "这就是答案，因为我仔细看了问题。",
        "关于这一点，还有很多别的话可以说。",
        "提问总是好的，我每天都很高兴回答。",
    ),
}


def read_rows(split: str) -> list[dict]:
    """The rows of a built-in split as they stand in its file."""
    text = (ASSETS / "instructions" / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# ---- what a row asks, and what the answers to others are


def asked(row: dict) -> str:
    """What a row asks about: its input, or what its wording puts into the instruction."""
    if row["input"]:
        return row["input"]
    head, tail = (row["wording"].split("{x}") + [""])[:2]
    return row["instruction"][len(head) : len(row["instruction"]) - len(tail)]


def groups_of(relation: str, lang: str) -> set[str]:
    """All wordings of a relation."""
    usual = {w for group in ("train", "dev", "test") for w in wordings(relation, lang, group)}
    return usual | set(MORE[relation][L[lang]].split("\n"))


class World:
    """What is known about rows: their relation, translations, and what only evaluation may tell.

    Attributes:
        facts: (relation, key) -> {language: (asked, answer)}.
        held_keys: the facts that evaluation splits ask for.
        held_words: the words, in both languages, whose translation they ask for.
    """

    def __init__(self, evaluation: Iterable[dict]):
        self.facts = facts()
        self.wordings = {(r, lang): groups_of(r, lang) for r in RELATIONS for lang in L}
        self.by_asked = {
            (relation, lang, told[lang][0]): key
            for (relation, key), told in self.facts.items()
            for lang in L
        }
        self.words = {lang: {w[L[lang]]: w for w in WORD_LIST} for lang in L}
        self.held_keys: set[str] = set()
        self.held_words: set[str] = set()
        for row in evaluation:
            if row["task"] == "knowledge":
                self.held_keys.add(self.fact(row)[1])
            elif row["task"] == "translate":
                self.held_words |= set(self.words[row["lang"]][asked(row)][:2])

    def fact(self, row: dict) -> tuple[str, str]:
        """(relation, key) of the fact that a row of `knowledge` asks for."""
        lang = row["lang"]
        about = asked(row)
        for relation in RELATIONS:
            key = self.by_asked.get((relation, lang, about))
            known = key and self.facts[relation, key][lang][1] == row["output"]
            if known and row["wording"] in self.wordings[relation, lang]:
                return relation, key
        raise ValueError(f"no fact is behind {row}")

    def answer(self, relation: str, lang: str, about: str, *, held: bool) -> str | None:
        """The answer to another question, unless only an evaluation split may tell it."""
        key = self.by_asked.get((relation, lang, about))
        if key is None or key in self.held_keys and not held:
            return None
        return self.facts[relation, key][lang][1]

    def translated(self, word: str, lang: str, *, held: bool) -> str | None:
        """A word of `lang` in the other language, under the same condition."""
        found = self.words[lang].get(word)
        if found is None or word in self.held_words and not held:
            return None
        return found[1 - L[lang]]


# ---- the six kinds: (rng, row, world, held) -> a worse answer, or None where there is none


def script(text: str) -> str:
    """The language that an answer is written in."""
    return "zh" if re.search("[\u4e00-\u9fff]", text) else "en"


def another(rng: random.Random, pool: Iterable[str], *but: str) -> str | None:
    """One of a pool of texts that is none of `but`."""
    left = sorted(set(pool) - set(but))
    return rng.choice(left) if left else None


def items_of(row: dict, text: str) -> list[str]:
    """The items of a list."""
    return text.split(SEP[row["lang"]])


def wrong_list(rng: random.Random, row: dict) -> str | None:
    """A wrong answer to a question about a list or numbers, of the right form."""
    task = row["task"]
    if task == "count":
        return str(int(row["output"]) + rng.choice((-1, 1)))
    if task in ("first", "last", "largest"):
        return another(rng, items_of(row, row["input"]), row["output"])
    items = items_of(row, row["output"])
    i = rng.randrange(len(items) - 1)
    items[i], items[i + 1] = items[i + 1], items[i]
    return SEP[row["lang"]].join(items)


def wrong_words(rng: random.Random, row: dict) -> str:
    """Capital or small letters with another word in the place of one."""
    parts = row["output"].split(" ")
    pool = (w[0] for w in WORD_LIST if " " not in w[0])
    other = another(rng, pool, *row["output"].lower().split(" "))
    parts[rng.randrange(len(parts))] = other.upper() if row["task"] == "upper" else other
    return " ".join(parts)


def wrong(rng: random.Random, row: dict, world: World, held: bool) -> str | None:
    """The right form with a wrong content."""
    task, lang, output = row["task"], row["lang"], row["output"]
    i = L[lang]
    if task in (*LISTS, *NUMBERS):
        return wrong_list(rng, row)
    if task in ("upper", "lower"):
        return wrong_words(rng, row)
    if task == "extract":
        return another(rng, (p[i] for p in PEOPLE_LIST), output)
    if task == "summary":
        person = next(p[i] for p in PEOPLE_LIST if output.startswith(p[i]))
        other = another(rng, (p[i] for p in PEOPLE_LIST), person)
        return other + output.removeprefix(person)
    if task == "sentiment":
        return another(rng, (s[i] for s in SENTIMENTS), output)
    if task == "topic":
        return another(rng, (t.split()[i] for t in TOPICS), output)
    if task == "translate":
        word = world.words[lang][asked(row)]
        return another(rng, (w[1 - i] for w in WORD_LIST if w[2] == word[2]), output)
    relation, _ = world.fact(row)
    same = (told[lang][1] for (name, _), told in world.facts.items() if name == relation)
    return another(rng, same, output)


def other_tasks(row: dict, world: World, held: bool) -> list[str | None]:
    """The right answers to other instructions on the input of a row."""
    task, lang, text = row["task"], row["lang"], asked(row)
    if task in LISTS:
        items = items_of(row, text)
        return [items[0], items[-1], str(len(items)), SEP[lang].join(items[::-1])]
    if task in NUMBERS:
        items = items_of(row, text)
        ordered = SEP[lang].join(sorted(items, key=int))
        return [max(items, key=int), ordered, SEP[lang].join(items[::-1]), str(len(items))]
    if task in ("upper", "lower"):
        parts = text.split(" ")
        return [text.lower(), text.upper(), str(len(parts)), parts[0], parts[-1]]
    if task in ("extract", "summary"):
        return [world_scene(row)[part] for part in ("person", "city", "gist")]
    told = [world.answer(name, lang, text, held=held) for name in RELATIONS]
    return [*told, world.translated(text, lang, held=held)]


def off_task(rng: random.Random, row: dict, world: World, held: bool) -> str | None:
    """The right text for another instruction on the same input."""
    return another(rng, filter(None, other_tasks(row, world, held)), row["output"])


def cut(rng: random.Random, row: dict, world: World, held: bool) -> str | None:
    """An answer that stops too early."""
    output = row["output"]
    if script(output) == "zh" and not re.search("[、 ]", output):
        ends = range(2, len(output) - 1)
    else:
        ends = [match.start() for match in re.finditer("[, 、]+", output)]
    return output[: rng.choice(ends)] if ends else None


def world_scene(row: dict) -> dict[str, str]:
    """Person, city, gist, and the gist in the other language, of the text of a row."""
    i = L[row["lang"]]
    text = row["input"]
    person = max((p for p in PEOPLE_LIST if p[i] in text), key=lambda p: len(p[i]))
    country = max((c for c in COUNTRY_LIST if c[2 + i] in text), key=lambda c: len(c[2 + i]))
    deed = next(d for d in DEEDS if (d[0], d[2])[i] in text)
    gists = (
        f"{person[0]} {deed[0]} in {country[2]}.",
        f"{person[1]}在{country[3]}{deed[2]}。",
    )
    return {
        "person": person[i],
        "city": country[2 + i],
        "gist": gists[i],
        "other": gists[1 - i],
    }


def language(rng: random.Random, row: dict, world: World, held: bool) -> str | None:
    """The answer in the other language."""
    task, lang, output = row["task"], row["lang"], row["output"]
    i = L[lang]
    if task in ("first", "last", "reverse"):
        words = [world.translated(word, lang, held=held) for word in items_of(row, output)]
        return SEP[OTHER[lang]].join(words) if all(words) else None
    if task in ("upper", "lower"):
        words = [world.translated(w, "en", held=held) for w in output.lower().split(" ")]
        return "、".join(words) if all(words) else None
    if task == "extract":
        return next(p[1 - i] for p in PEOPLE_LIST if p[i] == output)
    if task == "summary":
        return world_scene(row)["other"]
    if task in ("sentiment", "topic"):
        known = [*SENTIMENTS, *(tuple(t.split()) for t in TOPICS)]
        return next(p[1 - i] for p in known if p[i] == output)
    if task == "count":
        return pairs(NUMBER_WORDS)[int(output)][1 - i]
    if task == "translate":
        return asked(row)
    if task == "knowledge":
        relation, key = world.fact(row)
        return world.facts[relation, key][OTHER[lang]][1] if relation != "symbol" else None
    return None


def repeated(rng: random.Random, row: dict, world: World, held: bool) -> str:
    """The right answer again and again."""
    output = row["output"]
    separators = [" ", "\n"] if output.endswith((".", "。")) else [" ", "\n", SEP[row["lang"]]]
    return rng.choice(separators).join([output] * rng.randint(3, 5))


def long(rng: random.Random, row: dict, world: World, held: bool) -> str:
    """The right answer and more than was asked."""
    lang, output = row["lang"], row["output"]
    more = rng.sample(MORE_TEXT[lang], 2)
    stop = "" if output.endswith((".", "。")) else ".。"[L[lang]]
    space = " " if lang == "en" else ""
    return output + stop + space + space.join(more)


MAKERS: dict[str, Callable] = {
    "wrong": wrong,
    "off_task": off_task,
    "cut": cut,
    "language": language,
    "repeated": repeated,
    "long": long,
}


# ---- the two files


def choose(rows: list[dict], world: World, *, per_cell: int, held: bool, seed: int) -> list[dict]:
    """Pairs from rows, each row used once: up to `per_cell` per kind, task and language."""
    rng = random.Random(seed)
    rows = sorted(rows, key=lambda row: (row["instruction"], row["input"]))
    rng.shuffle(rows)
    cells = defaultdict(list)
    for row in rows:
        cells[row["task"], row["lang"]].append(row)
    made = []
    for _, left in sorted(cells.items()):
        counts = Counter()
        for row in left:
            # the rarest kind first: what few rows allow is not left for the end
            for kind in sorted(KINDS, key=lambda kind: (counts[kind], KINDS.index(kind))):
                worse = MAKERS[kind](rng, row, world, held) if counts[kind] < per_cell else None
                if worse:
                    counts[kind] += 1
                    made.append(as_pair(row, kind, worse))
                    break
    rng.shuffle(made)
    return made


def as_pair(row: dict, kind: str, worse: str) -> dict:
    """A line of the files."""
    return {
        "instruction": row["instruction"],
        "input": row["input"],
        "chosen": row["output"],
        "rejected": worse,
        "kind": kind,
        "task": row["task"],
        "language": row["lang"],
    }


def make(seed: int = SEED) -> dict[str, list[dict]]:
    """The pairs of both files.

    Returns:
        {"train": …, "held": …}, lists of rows.
    """
    evaluation = [row for split in HELD for row in read_rows(split)]
    world = World(evaluation)
    sources = {"train": read_rows("train"), "held": evaluation}
    return {
        name: choose(rows, world, per_cell=PER_CELL[name], held=name == "held", seed=seed + i)
        for i, (name, rows) in enumerate(sources.items())
    }


def texts(seed: int = SEED) -> dict[str, str]:
    """What the files hold, by name."""
    return {
        name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for name, rows in make(seed).items()
    }


def main() -> None:
    """Write both files and their hashes."""
    folder = ASSETS / "preferences"
    folder.mkdir(exist_ok=True)
    hashes = {}
    for name, text in texts().items():
        with write_file(folder / f"{name}.jsonl") as scratch:
            scratch.write_text(text, encoding="utf-8", newline="\n")
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
        print(f"{name}: {text.count(chr(10)):,} pairs, {len(text.encode()):,} bytes")
    write_json(LOG, {"version": 1, "seed": SEED, "sha256": hashes})


if __name__ == "__main__":
    main()

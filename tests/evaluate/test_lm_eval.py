"""lm-eval on a model in memory: its number is the one that one gets by hand, from any folder, and nothing is changed."""

import json
import logging
import math
import random
import sys

import numpy as np
import pytest
import torch

from instruct_course.common.errors import InputError
from instruct_course.common.files import ASSETS
from instruct_course.data import template
from instruct_course.data.example import Example
from instruct_course.evaluate import lm_eval
from instruct_course.model import lora

pytest.importorskip("lm_eval")
ROWS = [
    json.loads(line)
    for line in (ASSETS / "lm_eval" / "knowledge.jsonl").read_text(encoding="utf-8").splitlines()
]
ARTICLE = template.TEMPLATES["article"]


@pytest.fixture(scope="module")
def adapted():
    """nano in 4 bits with an adapter that is not zero, and trained rows of special tokens."""
    from instruct_course.model.load import load_base

    base = load_base("nano")
    model = lora.attach(
        base.model, lora_alpha=64, token_ids=template.prepare(ARTICLE, base.tokenizer), seed=0
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn_like(p))
    return model, base.tokenizer


@torch.no_grad()
def by_hand(model, tokenizer, rows, form=None):
    """Accuracy of the likeliest choice; the choices of a row are one batch, padded on the right."""
    right = []
    for r in rows:
        context = (
            template.prompt(form, tokenizer, Example(r["instruction"]))
            if form
            else tokenizer(r["instruction"]).input_ids
        )
        new = [
            tokenizer(" " + choice, add_special_tokens=False).input_ids for choice in r["choices"]
        ]
        width = max(map(len, new))
        logp = (
            model(torch.tensor([context + n + [0] * (width - len(n)) for n in new]))
            .logits.float()
            .log_softmax(-1)
        )
        scores = [
            sum(logp[i, len(context) - 1 + k, t].item() for k, t in enumerate(n))
            for i, n in enumerate(new)
        ]
        right.append(scores.index(max(scores)) == r["label"])
    return sum(right) / len(right)


def test_its_number_is_ours_on_4_bits_with_an_adapter(adapted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the data file is found from any folder
    model, tokenizer = adapted
    ids = torch.tensor([tokenizer("What is the capital of France?").input_ids])
    with torch.no_grad():
        before = model(ids).logits
    model.train()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    kept, size = (
        (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
        len(tokenizer),
    )
    out = lm_eval.lm_eval(model, tokenizer, template=ARTICLE, batch_size=16)
    assert model.training and len(tokenizer) == size
    assert (
        kept[0] == random.getstate()
        and kept[1] == np.random.get_state()[1].tolist()
        and torch.equal(kept[2], torch.get_rng_state())
    )
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)  # tying the weights again changed nothing
        with model.disable_adapter():
            plain = by_hand(model, tokenizer, ROWS, ARTICLE)
    task = out["tasks"]["instruct_course_knowledge"]
    assert (
        task["n"] == len(ROWS) == 120
        and list(out) == ["version", "lm_eval", "limit", "tasks"]
        and list(tmp_path.iterdir()) == []
    )
    assert (
        task["scores"]["acc"] == by_hand(model, tokenizer, ROWS, ARTICLE) != plain
    )  # the adapter was there
    p = task["scores"]["acc"]
    assert task["stderr"]["acc"] == pytest.approx(math.sqrt(p * (1 - p) / 119), abs=1e-12)
    assert json.loads(json.dumps(out)) == out


def test_without_a_template_and_with_a_limit(nano, capfd, caplog):
    out = lm_eval.lm_eval(nano.model, nano.tokenizer, limit=25)["tasks"][
        "instruct_course_knowledge"
    ]
    assert out["n"] == 25 and out["scores"]["acc"] == by_hand(nano.model, nano.tokenizer, ROWS[:25])
    out, err = capfd.readouterr()
    assert (out + err).strip() == "" and not [
        r for r in caplog.records if r.levelno >= logging.WARNING
    ]


def test_a_folder_and_a_task_that_generates(adapted, tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"q": q, "a": "x"}) + "\n" for q in ("Name a fruit.", "说一种水果。")),
        encoding="utf-8",
    )
    (tmp_path / "one.yaml").write_text(
        "task: one\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\ngeneration_kwargs: {until: [\"\\n\"], max_gen_toks: 4}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )
    monkeypatch.chdir("/")
    out = lm_eval.lm_eval(*adapted, tmp_path, template=ARTICLE)
    assert out["tasks"]["one"]["n"] == 2 and out["tasks"]["one"]["scores"] == {"exact_match": 0.0}


def test_the_choices_are_sound():
    for r in ROWS:
        assert len(r["choices"]) == len(set(r["choices"])) == 4 and 0 <= r["label"] < 4
    known = {
        (json.loads(line)["instruction"], json.loads(line)["output"])
        for line in (ASSETS / "instructions" / "knowledge.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    }
    assert all((r["instruction"], r["choices"][r["label"]]) in known for r in ROWS)
    assert all(abs([r["label"] for r in ROWS].count(k) - 30) <= 12 for k in range(4))


def test_what_is_wrong_is_told(nano, tmp_path, monkeypatch):

    def ask(*task, **options):
        return lm_eval.lm_eval(nano.model, nano.tokenizer, *task, **options)

    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("task: [", encoding="utf-8")
    (tmp_path / "nameless.yaml").write_text("dataset_path: json\n", encoding="utf-8")
    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: json\ndataset_kwargs: {data_files: {test: gone.jsonl}}\n",
        encoding="utf-8",
    )
    (tmp_path / "hub.yaml").write_text(
        "task: hub\ndataset_path: nobody/nothing\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: c\ndoc_to_target: 0\n",
        encoding="utf-8",
    )
    for task, said in (
        (tmp_path / "no.yaml", "no such task file"),
        (tmp_path / "empty", "no .yaml file"),
        (tmp_path / "bad.yaml", "cannot be read"),
        (tmp_path / "nameless.yaml", "task: NAME"),
        (tmp_path / "far.yaml", "gone.jsonl is not beside it"),
        (tmp_path / "hub.yaml", "could not run 'hub.yaml'"),
    ):
        with pytest.raises(InputError, match=said) as error:
            ask(task)
        assert "\n" not in str(error.value)
    for kw in ({"limit": 0}, {"batch_size": 0}):
        with pytest.raises(InputError, match="1 or more"):
            ask(**kw)
    with pytest.raises(InputError, match="knows no task 'instruct_course_unknown'"):
        ask("instruct_course_unknown")
    for name in [k for k in sys.modules if k == "lm_eval" or k.startswith("lm_eval.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r'pip install "instruct_course\[eval\]"') as error:
        ask()
    assert "\n" not in str(error.value)

"""A merged folder is opened as what it is, and other folders are not."""

import pytest

from instruct_course import generate
from instruct_course.common.errors import InputError
from instruct_course.data import dataset
from instruct_course.data import template as templates
from instruct_course.deploy.merge import merge
from instruct_course.deploy.merged import is_merged, open_merged


@pytest.fixture(scope="module")
def both(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "both"
    return merge(small_run.path, out, onto="both", limit=0, quiet=True)[0]


def test_a_merged_folder_is_opened_and_answers_as_the_run(both, small_run):
    assert is_merged(both / "16bit")
    assert not is_merged(both)
    assert not is_merged(small_run.path)
    model, tokenizer, template = open_merged(both / "dequantized")
    assert template == templates.read(small_run.path / "template.json")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    ex = dataset.example(next(iter(dataset.load(small_run.path / "heldout.jsonl"))))
    answer = generate.answer(model, tokenizer, template, [ex], max_new_tokens=16)
    assert answer == [small_run.answer(ex.instruction, ex.input, max_new_tokens=16)]


def test_other_folders_are_refused(both, small_run):
    with pytest.raises(InputError, match="dequantized"):
        open_merged(both)
    with pytest.raises(InputError, match="one that merge wrote"):
        open_merged(small_run.path)

"""A card says what is true, and guesses no licence."""

import pytest
import yaml

from instruct_course.deploy.card import model_card, results_table

MADE = {"gguf": None, "prompts": None, "onto": "dequantized", "not_run": ["vLLM"], "context": 1024}


def head_of(text):
    return yaml.safe_load(text.split("---")[1])


def test_a_licence_is_not_guessed(inputs):
    text = model_card(inputs, "vllm", MADE)
    assert head_of(text)["license"] == "other"
    assert "was not named" in text
    text = model_card(inputs, "vllm", MADE, license="mit")
    assert head_of(text)["license"] == "mit"
    assert "named it: mit" in text


@pytest.mark.parametrize(
    "form,library",
    [("gguf", "gguf"), ("ollama", "gguf"), ("vllm", "transformers"), ("adapter", "peft")],
)
def test_the_head(inputs, form, library):
    head = head_of(model_card(inputs, form, MADE))
    assert head["library_name"] == library
    assert head["language"] == ["en", "zh"]
    assert "qlora" in head["tags"]
    assert "base_model" not in head  # nano is no model of the hub


def test_prompts_that_differ_are_named(inputs):
    check = {"n": 9, "equal": 8, "different": [["Say <out>.", ""]]}
    text = model_card(inputs, "vllm", MADE | {"prompts": check})
    assert "9 golden rows: 8 are equal. Not equal: 'Say <out>.'." in text


def test_a_run_that_was_stopped_has_no_results():
    assert results_table({}, None) == "The run was stopped before it was judged."

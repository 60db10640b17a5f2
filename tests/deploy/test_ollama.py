"""The prompts that Ollama makes are those of the training, token for token, or are named."""

from types import SimpleNamespace

import pytest
from tiny_bases import byte_level_base, inputs_of

from instruct_course.common.errors import InputError
from instruct_course.data import template as templates
from instruct_course.deploy.gguf_tokenizer import adds_bos
from instruct_course.deploy.ollama import (
    EDGES,
    GOLDEN,
    compare_prompts,
    go_template,
    modelfile,
    ollama_ids,
    render_go,
)


@pytest.mark.parametrize("name", ["article", "alpaca"])
def test_prompts_are_those_of_training(inputs, name):
    template = templates.named(name)

    def asked(ex):
        return ollama_ids(template, inputs.tokenizer, ex)

    found = compare_prompts(template, inputs.tokenizer, asked)
    assert found == {"n": 9, "equal": 9, "different": []}
    # the engine parses what training did not
    found = compare_prompts(template, inputs.tokenizer, asked, EDGES)
    assert found["different"] == [["Say <out> now. <eos>", ""]]


CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def test_a_chat_template_in_go(tmp_path):
    tokenizer = inputs_of(byte_level_base(tmp_path / "base", "llama", "gpt-2")).tokenizer
    tokenizer.chat_template = CHAT
    go = go_template(templates.named("chat", tokenizer), tokenizer)
    assert go.startswith("{{ if .System }}")
    assert go.endswith("{{ end }}")
    for system in ("", "Be brief.", "系统"):
        before = [{"role": "system", "content": system}] if system else []
        for instruction, _ in GOLDEN:
            turns = [*before, {"role": "user", "content": instruction}]
            wanted = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False
            )
            if adds_bos(tokenizer):
                wanted = wanted.removeprefix("<bos>")
            assert render_go(go, prompt=instruction, system=system) == wanted


def test_the_renderer_knows_its_subset_only():
    text = "a{{ if .System }}[{{ .System }}]{{ else }}-{{ end }}{{ .Prompt }}"
    assert render_go(text, prompt="{{ .System }}", system="s") == "a[s]{{ .System }}"
    assert render_go(text, prompt=r"\1 \g<0>") == r"a-\1 \g<0>"
    with pytest.raises(InputError, match="subset"):
        render_go("{{ range .Messages }}{{ end }}", prompt="x")


def test_what_a_modelfile_cannot_hold_is_refused():
    odd = templates.Template("odd", "{instruction}{input}", '"""{instruction}')
    with pytest.raises(InputError, match="Modelfile"):
        go_template(odd, SimpleNamespace(bos_token_id=None))


def test_the_modelfile(inputs):
    text = modelfile(inputs, "GO", 1024)
    assert "was not run" in text.splitlines()[0]
    for line in ('TEMPLATE """GO"""', 'PARAMETER stop "<eos>"', "PARAMETER num_ctx 1024"):
        assert line in text.splitlines()

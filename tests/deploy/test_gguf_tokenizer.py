"""A tokenizer's rule is named only where it is exactly llama.cpp's."""

import pytest
from transformers import AutoTokenizer

from instruct_course.common.errors import InputError
from instruct_course.deploy.gguf_tokenizer import pre_tokenizer
from instruct_course.model import hub


def test_a_rule_without_a_name_is_refused():
    from tokenizers import pre_tokenizers

    tokenizer = AutoTokenizer.from_pretrained(hub.resolve("nano"))
    assert pre_tokenizer(tokenizer) == "smollm"
    digits = pre_tokenizers.Digits(individual_digits=False)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for rule in (pre_tokenizers.Whitespace(), pre_tokenizers.Sequence([digits, to_bytes])):
        tokenizer.backend_tokenizer.pre_tokenizer = rule
        with pytest.raises(InputError, match="convert_hf_to_gguf"):
            pre_tokenizer(tokenizer)

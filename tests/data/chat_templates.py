"""Chat templates in the style of well-known models, written by hand, and a tokenizer for each."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = """
{%- for m in messages -%}
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
# a default system text, as SmolLM2 and Qwen 2.5 have it, and tools
CHATML_TOOLS = """
{%- if tools -%}
{{ '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' -%}{{ messages[0].content + '\\n' }}{%- endif -%}
{%- for tool in tools -%}{{ tool | tojson }}{{ '\\n' }}{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- elif messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif m.tool_calls -%}
{{ '<|im_start|>assistant' }}
{%- if m.content -%}{{ '\\n' + m.content }}{%- endif -%}
{%- for call in m.tool_calls -%}
{{ '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- elif not (tools and loop.first and m.role == 'system') -%}
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
LLAMA3 = """
{{- '<|begin_of_text|>' -}}
{%- for m in messages -%}
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif -%}
"""
# the system text goes into the last question, so that it moves from turn to turn
MISTRAL = """
{%- if messages[0].role == 'system' -%}
{%- set system = messages[0].content -%}{%- set rest = messages[1:] -%}
{%- else -%}
{%- set rest = messages -%}
{%- endif -%}
{{- '<s>' -}}
{%- for m in rest -%}
{%- if m.role == 'user' and loop.index0 >= loop.length - (1 if add_generation_prompt else 2)
    and system is defined -%}
{{ '[INST] ' + system + '\\n\\n' + m.content + '[/INST]' }}
{%- elif m.role == 'user' -%}
{{ '[INST] ' + m.content + '[/INST]' }}
{%- elif m.role == 'assistant' -%}
{{ ' ' + m.content | trim + '</s>' }}
{%- else -%}
{{ raise_exception('only user and assistant roles are supported') }}
{%- endif -%}
{%- endfor -%}
"""
GEMMA = """
{{- '<bos>' -}}
{%- if messages[0].role == 'system' -%}
{{ raise_exception('System role not supported') }}
{%- endif -%}
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- set role = 'model' if m.role == 'assistant' else m.role -%}
{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""
# earlier reasoning is dropped; the last answer always has some, if only an empty one
QWEN3 = """
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- set answer = m.content -%}{%- set reasoning = '' -%}
{%- if '</think>' in m.content -%}
{%- set reasoning = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set answer = m.content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if loop.index0 > ns.last and (loop.last or reasoning) -%}
{{ '<|im_start|>assistant\\n<think>\\n' + reasoning + '\\n</think>\\n\\n' + answer }}
{%- else -%}
{{ '<|im_start|>assistant\\n' + answer }}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- else -%}
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
# the generation prompt opens the reasoning; an answer of the past has none
DEEPSEEK_R1 = """
{{- '<|bos|>' -}}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{{ m.content }}
{%- elif m.role == 'user' -%}{{ '<|User|>' + m.content }}
{%- else -%}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|eos|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|Assistant|><think>\\n' }}{%- endif -%}
"""
VICUNA = """
{%- for m in messages -%}
{%- if m.role == 'user' -%}{{ 'USER: ' + m.content + ' ' }}
{%- elif m.role == 'assistant' -%}{{ 'ASSISTANT: ' + m.content + '</s>' }}
{%- else -%}{{ m.content + ' ' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT: ' }}{%- endif -%}
"""
# no special token ends an answer
OPEN = """
{%- for m in messages -%}
{%- if m.role == 'user' -%}{{ 'USER: ' + m.content + '\\n' }}
{%- elif m.role == 'assistant' -%}{{ 'ASSISTANT: ' + m.content + '\\n' }}
{%- else -%}{{ m.content + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT: ' }}{%- endif -%}
"""

# template, special tokens (the end token first), added tokens that are not special
STYLES = {
    "chatml": (CHATML, ["<|im_end|>", "<|im_start|>"], ["<think>", "</think>"]),
    "chatml-tools": (
        CHATML_TOOLS,
        ["<|im_end|>", "<|im_start|>"],
        ["<tool_call>", "</tool_call>"],
    ),
    "llama3": (
        LLAMA3,
        ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
        [],
    ),
    "mistral": (MISTRAL, ["</s>", "<s>", "[INST]", "[/INST]"], []),
    "gemma": (GEMMA, ["<end_of_turn>", "<bos>", "<start_of_turn>"], []),
    "qwen3": (QWEN3, ["<|im_end|>", "<|im_start|>"], ["<think>", "</think>"]),
    "deepseek-r1": (
        DEEPSEEK_R1,
        ["<|eos|>", "<|bos|>", "<|User|>", "<|Assistant|>"],
        ["<think>", "</think>"],
    ),
    "vicuna": (VICUNA, ["</s>"], []),
    "open": (OPEN, ["</s>"], []),
}
HAS_SYSTEM = [name for name in STYLES if name != "gemma"]
CORPUS = [
    "the cat sat on the mat and said hello to you",
    "user assistant system model USER ASSISTANT You are a helpful assistant .",
    "你好 世界 猫 狗",
] * 30


@cache
def styled(name: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the special tokens and the chat template of a style."""
    template, special, added = STYLES[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=special[0],
        additional_special_tokens=special[1:],
    )
    fast.add_tokens(added)
    fast.chat_template = template
    return fast

#!/usr/bin/env python3
"""Ask a tuned model that vLLM or Ollama serves.

Written by instruct_course; needs transformers and nothing else.

    python ask.py "instruction" ["input"] [--url URL] [--model NAME] [--max-tokens 256]

To vLLM it sends token ids, made as in training, so no text of a user becomes a special token. To
Ollama it sends the whole prompt as raw text, instruction and input in their places; Ollama parses
special tokens in any text, so a text that holds one is refused.
"""

import argparse
import json
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from transformers import AutoTokenizer

SETTINGS = {}
HAN = SETTINGS["han"]


class InputError(ValueError):
    """A row that the template cannot write."""


# FUNCTIONS
def ready():
    """The template and the tokenizer that lie beside this script."""
    folder = Path(__file__).resolve().parent / SETTINGS["folder"]
    return read(folder / "template.json"), AutoTokenizer.from_pretrained(folder)


def vllm_body(template, tokenizer, ex, model, max_tokens):
    """What vLLM is sent for one question: token ids."""
    return {
        "model": model,
        "prompt": prompt(template, tokenizer, ex),
        "max_tokens": max_tokens,
        "temperature": 0,
        "stop_token_ids": list(stop_ids(template, tokenizer)),
    }


def ollama_body(template, tokenizer, ex, model, max_tokens):
    """What Ollama is sent for one question: the whole prompt as raw text."""
    control = control_tokens(tokenizer)
    forged = [token for token in control.values() if token in ex.instruction + ex.input]
    if forged:
        raise SystemExit(f"the text holds {forged[0]}, which Ollama would read as a special token")
    text = "".join(part for _, part in pieces(template, tokenizer, ex)[0])
    bos = tokenizer.bos_token_id
    if bos is not None and tokenizer("a").input_ids[:1] == [bos]:
        text = text.removeprefix(tokenizer.bos_token)  # Ollama adds it
    stop = [control[i] for i in stop_ids(template, tokenizer) if i in control]
    return {
        "model": model,
        "prompt": text,
        "raw": True,
        "stream": False,
        "options": {"temperature": 0, "num_predict": max_tokens, "stop": stop},
    }


def body(ex, model, max_tokens):
    """What is sent for one question."""
    template, tokenizer = ready()
    make = {"vllm": vllm_body, "ollama": ollama_body}[SETTINGS["engine"]]
    return make(template, tokenizer, ex, model, max_tokens)


def ask(ex, url, model, max_tokens):
    """The answer's text."""
    path = {"vllm": "/v1/completions", "ollama": "/api/generate"}[SETTINGS["engine"]]
    data = json.dumps(body(ex, model, max_tokens)).encode("utf-8")
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        reply = json.load(answer)
    text = reply["choices"][0]["text"] if SETTINGS["engine"] == "vllm" else reply["response"]
    return text.strip()


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=f"Ask the model that {SETTINGS['engine']} serves."
    )
    parser.add_argument("instruction")
    parser.add_argument("input", nargs="?", default="")
    parser.add_argument("--url", default=SETTINGS["url"])
    parser.add_argument("--model", default=SETTINGS["model"])
    parser.add_argument("--max-tokens", type=int, default=256)
    args = parser.parse_args()
    print(ask(Example(args.instruction, args.input), args.url, args.model, args.max_tokens))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Ask a tuned model that vLLM or Ollama serves. Written by instruct_course; needs transformers and nothing else.

    python ask.py "instruction" ["input"] [--url URL] [--model NAME] [--max-tokens 256]

To vLLM it sends token ids, made as in training, so no text of a user becomes a special token. To Ollama it sends the whole prompt as raw
text, instruction and input in their places; Ollama parses special tokens in any text, so a text that holds one is refused.
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
HAN, FIELD, _HOLE = SETTINGS["han"], re.compile(SETTINGS["field"]), re.compile(SETTINGS["hole"])
_control = WeakKeyDictionary()


class InputError(ValueError):
    pass


@dataclass(frozen=True)
class Example:
    instruction: str
    input: str = ""
    output: str = ""
    system: str = ""
    context: tuple = ()


# FUNCTIONS
def ready():
    """(template, tokenizer) that lie beside this script."""
    folder = Path(__file__).resolve().parent / SETTINGS["folder"]
    return read(folder / "template.json"), AutoTokenizer.from_pretrained(folder)


def body(ex, model, max_tokens):
    """What is sent for one question."""
    template, tokenizer = ready()
    if SETTINGS["engine"] == "vllm":
        return {"model": model, "prompt": prompt(template, tokenizer, ex), "max_tokens": max_tokens, "temperature": 0, "stop_token_ids": list(stop_ids(template, tokenizer))}
    control = control_tokens(tokenizer)
    if forged := [t for t in control.values() if t in ex.instruction + ex.input]:
        raise SystemExit(f"the text holds {forged[0]}, which Ollama would read as a special token")
    text = "".join(part for _, part in pieces(template, tokenizer, ex)[0])
    if tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]:
        text = text.removeprefix(tokenizer.bos_token)                    # Ollama adds it
    stop = [control[i] for i in stop_ids(template, tokenizer) if i in control]
    return {"model": model, "prompt": text, "raw": True, "stream": False, "options": {"temperature": 0, "num_predict": max_tokens, "stop": stop}}


def ask(ex, url, model, max_tokens):
    """The answer's text."""
    path = {"vllm": "/v1/completions", "ollama": "/api/generate"}[SETTINGS["engine"]]
    asked = urllib.request.Request(url + path, json.dumps(body(ex, model, max_tokens)).encode("utf-8"), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=600) as answer:
        said = json.load(answer)
    return (said["choices"][0]["text"] if SETTINGS["engine"] == "vllm" else said["response"]).strip()


def main():
    parse = argparse.ArgumentParser(description=f"Ask the model that {SETTINGS['engine']} serves.")
    parse.add_argument("instruction")
    parse.add_argument("input", nargs="?", default="")
    parse.add_argument("--url", default=SETTINGS["url"])
    parse.add_argument("--model", default=SETTINGS["model"])
    parse.add_argument("--max-tokens", type=int, default=256)
    a = parse.parse_args()
    print(ask(Example(a.instruction, a.input), a.url, a.model, a.max_tokens))


if __name__ == "__main__":
    main()

"""The options of the commands that take a finished run, each declared once."""

from dataclasses import dataclass

from instruct_course import row_options
from instruct_course.common.options import option

__all__ = ["ChatConfig", "EvalConfig", "ExportConfig", "MergeConfig", "ServeConfig"]
RUN = "a run directory that tune wrote"
MISMATCH = "go on where base or template are not those of training"
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What `eval` does."""

    run: str = option(RUN)
    data: str | None = option("rows to judge by; default: those that the run was judged by", None)
    columns: str | None = row_options.columns()
    encoding: str | None = row_options.encoding()
    json_output: bool = row_options.json_output()
    response_marker: str | None = row_options.response_marker()
    base: bool = option("judge the base model too, and compare", False)
    against: str | None = option("another run directory to compare with", None)
    training: str | None = option(
        "the rows that it learnt from, to find copies of them among those it is judged by", None
    )
    ifeval: str | None = option(
        "verifiable instructions as well: 'builtin' or a .jsonl file; default: those that the run "
        "held out, if it was rewarded for such",
        None,
    )
    judge: str | None = option(
        "address of an OpenAI-compatible judge that compares the answers, "
        "such as http://127.0.0.1:8000/v1",
        None,
    )
    judge_model: str | None = option("the judge's model", None)
    judge_key_env: str = option(
        "the environment variable that holds the judge's key", "OPENAI_API_KEY"
    )
    limit: int | None = option("judge by only so many rows, at even distances", None, at_least=1)
    max_tokens: int | None = option(
        "tokens per answer at most; default: a quarter more than the longest expected one",
        None,
        at_least=1,
    )
    batch_size: int = option("answers made at a time", 64, at_least=1)
    out: str | None = option(
        "the folder to write; default: a new one in the run directory, under evaluations/", None
    )
    skip_bad: bool = option(
        "go on without bad rows of --data; they are counted and named in the report", False
    )
    allow_mismatch: bool = option(MISMATCH, False)


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """What `chat` does."""

    run: str = option(RUN)
    prompt: str | None = option("one instruction; without it, a conversation starts", None)
    input: str = option("the input that the instruction is about", "")
    max_tokens: int = option("tokens per answer at most", 256, at_least=1)
    allow_mismatch: bool = option(MISMATCH, False)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What `serve` does."""

    run: str = option(RUN + ", or a folder that merge wrote")
    host: str = option(
        "the address to answer on; any other than this machine's own needs a key", "127.0.0.1"
    )
    port: int = option("the port; 0 takes a free one", 8000, at_least=0, at_most=65535)
    api_key_env: str | None = option(
        "the environment variable that holds the key that clients must send", None
    )
    allow_origin: list[str] | None = option(
        "a web page's origin that may call it, such as https://example.org; "
        "may be given several times",
        None,
    )
    allow_host: list[str] | None = option(
        "a name that the server may be called by, besides localhost and addresses; "
        "may be given several times",
        None,
    )
    max_tokens: int = option("tokens per answer at most", 1024, at_least=1)
    queue: int = option("requests that may wait; more are sent away", 64, at_least=1)
    seconds: float = option("seconds per request, its waiting included", 120.0, above=0)
    quiet: bool = option("no line for each request", False)
    allow_mismatch: bool = option(MISMATCH, False)


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """What `merge` does."""

    run: str = option(RUN)
    out: str = option("the folder to write")
    onto: str | None = option(
        "what the adapter is added to; default: dequantized, the model that was evaluated",
        None,
        choices=("dequantized", "16bit", "both"),
    )
    dtype: str | None = option(
        "of the weights written; default: that of the base's files", None, choices=DTYPES
    )
    limit: int = option("held-out rows of the report at most; 0 for no report", 256, at_least=0)
    allow_mismatch: bool = option(MISMATCH, False)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What `export` does."""

    run: str = option(RUN)
    out: str = option("the folder to write")
    format: str = option("what it is for", "gguf", choices=("gguf", "ollama", "vllm", "adapter"))
    gguf_dtype: str = option(
        "of the weights in a GGUF", "bf16", choices=("f32", "bf16", "f16", "q8_0")
    )
    onto: str | None = option(
        "what the adapter is merged onto; default: dequantized",
        None,
        choices=("dequantized", "16bit"),
    )
    license: str | None = option(
        "the model's licence for its card, such as apache-2.0; it is that of the base and the data",
        None,
    )
    push: str | None = option(
        "upload the folder to this private repository of the hub (owner/name), after asking", None
    )
    yes: bool = option("upload without asking", False)
    allow_mismatch: bool = option(MISMATCH, False)

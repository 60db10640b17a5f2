"""A QLoRA step of the 7B shape on a GPU, by length, beside other ways to train it.

python -m benchmarks.gpu [--dry-run] [--lengths 512 1024 …] [--contenders …] [--out FILE]

Random weights in NF4; nothing is fetched. All contenders have the same weights and rows and take
turns; short rows come first, and each turn is written to the file before the next begins.
`--dry-run` does the same with a toy on a CPU, in less than a minute.
"""

import argparse
import gc
import importlib.util
import itertools
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from instruct_course.common.errors import OutOfMemory
from instruct_course.common.files import write_json
from instruct_course.data.template import IGNORE_INDEX, Encoded
from instruct_course.model import lora
from instruct_course.plan import rehearse
from instruct_course.plan.memory import Setting, memory, operations
from instruct_course.plan.shapes import SHAPES, Shape, shape
from instruct_course.train.micro_batches import is_out_of_memory

from . import unsloth_peer
from .machine import cpu, versions
from .trainers import TRAINERS, Clock, Job, get_adapters, set_adapters

RESULTS = Path(__file__).parent / "results"
MODEL = "Qwen/Qwen2.5-7B"
LENGTHS = (512, 1024, 2048, 4096, 8192)
CONTENDERS = (*TRAINERS, "Unsloth")
NEEDS = {"TRL": "trl", "Unsloth": "unsloth"}
LORA_R = 16
MATMUL = {"cuda": 8192, "cpu": 512}  # rows and columns of the product that is the limit


def random_rows(count: int, length: int, vocab: int, seed: int = 0) -> list[Encoded]:
    """Rows of random ids, the first of `length` tokens, the others shorter, down to the half.

    The second half of each is supervised.
    """
    rng = np.random.default_rng([seed, length])
    rows = []
    for i in range(count):
        ids = rng.integers(1, vocab, length - i * length // (2 * count)).tolist()
        unsupervised = len(ids) // 2
        rows.append(Encoded(ids, [IGNORE_INDEX] * unsupervised + ids[unsupervised:]))
    return rows


def needed_operations(model: Shape, rows: list[Encoded], lora_r: int = LORA_R) -> int:
    """Operations of the matrix products that a step of these rows cannot do without.

    Each row counts with its real tokens, once forwards and once backwards, whatever a contender
    computes besides (padding, recomputed layers, logits of unsupervised tokens).
    """
    total = 0
    for row in rows:
        learnt = sum(label != IGNORE_INDEX for label in row.labels[1:])
        length = len(row.ids)
        alone = Setting(
            max_length=length, batch_tokens=length, lora_r=lora_r, response=learnt / length
        )
        total += sum(operations(model, alone).values())
    return total


def mfu(needed: int, seconds: float, limit: float) -> float:
    """Model FLOPs utilisation: the share of the matmul limit (operations per second)."""
    return needed / seconds / limit


def matmul_limit(device: str, dtype: torch.dtype, *, size: int = 0, rounds: int = 20) -> dict:
    """What a large square product reaches on the device: {size, dtype, operations_per_second}."""
    size = size or MATMUL[device]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    seconds = []
    for _ in range(rounds):
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return {
        "size": size,
        "dtype": str(dtype).removeprefix("torch."),
        "operations_per_second": 2 * size**3 / statistics.median(seconds),
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _tidy(device: str) -> None:
    """Give back what a turn left."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def turn(net, weights: dict, job: Job, contender: str) -> dict:
    """One contender's turn from the adapters `weights`: its numbers, or why it failed."""
    device = net.device.type
    set_adapters(net, weights)
    _tidy(device)
    clock = Clock(job.steps, device)
    failed = ""
    try:
        with clock:
            TRAINERS[contender](net, job, clock)
    except (RuntimeError, ValueError, MemoryError, OutOfMemory, ImportError) as error:
        failed = _reason(error)
    finally:
        set_adapters(net, weights)
        _tidy(device)
    if failed:
        return {"failed": failed}
    return {"seconds": clock.seconds, "losses": clock.losses, "peak_bytes": clock.peak_bytes}


def _reason(error: Exception) -> str:
    if isinstance(error, OutOfMemory) or is_out_of_memory(error):
        return "out of memory"
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def available(contender: str) -> bool:
    """Whether the package of a contender is installed."""
    needed = NEEDS.get(contender)
    return needed is None or importlib.util.find_spec(needed) is not None


class Table:
    """The rows of a run, written to its file after each turn.

    Args:
        head: what else the file says.
        path: the file; None: nowhere.
    """

    def __init__(self, head: dict, path: Path | None):
        self.head = head
        self.path = path
        self.rows = []

    def row(self, length: int, contender: str) -> dict:
        """The row of a contender at a length; a new one where there is none."""
        for row in self.rows:
            if (row["length"], row["contender"]) == (length, contender):
                return row
        self.rows.append({"length": length, "contender": contender})
        return self.rows[-1]

    def write(self) -> None:
        if self.path:
            write_json(self.path, self.head | {"rows": self.rows})

    def add(self, model: Shape, job: Job, length: int, contender: str, made: dict) -> None:
        """Take over a turn and write the file."""
        row = self.row(length, contender)
        if "failed" in made:
            row["failed"] = made["failed"]
            self.write()
            return
        row.setdefault("turns", []).append(made["seconds"])
        row["losses"] = made["losses"]
        row["peak_bytes"] = max(made["peak_bytes"], row.get("peak_bytes", 0))
        step = statistics.median(row["turns"]) / job.steps
        limit = self.head["matmul"]["operations_per_second"]
        row["tokens"] = job.tokens
        row["operations"] = needed_operations(model, job.rows)
        row["seconds_per_step"] = step
        row["tokens_per_second"] = job.tokens / step
        row["mfu"] = mfu(row["operations"], step, limit)
        self.write()

    def text(self) -> str:
        """The rows as lines for a person."""
        head = f"{'length':>7}  {'contender':20}{'tokens/s':>10}{'MFU':>7}{'peak GB':>9}"
        lines = [f"{head}{'planned':>9}{'loss':>9}"]
        for row in self.rows:
            start = f"{row['length']:>7}  {row['contender']:20}"
            if "turns" not in row:
                lines.append(f"{start}  {row.get('failed', 'not measured')}")
                continue
            planned = row.get("planned_bytes")
            lines.append(
                f"{start}{row['tokens_per_second']:>10,.0f}{100 * row['mfu']:>6.1f}%"
                f"{row['peak_bytes'] / 1e9:>9.2f}"
                f"{f'{planned / 1e9:.2f}' if planned else '':>9}{row['losses'][-1]:>9.4f}"
            )
        return "\n".join(lines)


def measure(net, model: Shape, jobs: dict[int, Job], table: Table, o, folder: Path) -> None:
    """All turns: by length, in each round each contender once."""
    weights = get_adapters(net)
    for length, job in jobs.items():
        for contender in o.contenders:
            row = table.row(length, contender)
            if not available(contender):
                row["failed"] = f"{NEEDS[contender]} is not installed"
        for _, contender in itertools.product(range(o.rounds), o.contenders):
            if "failed" in table.row(length, contender):
                continue
            if contender == "Unsloth":
                made = unsloth_peer.turn(folder, job, LORA_R)
            else:
                made = turn(net, weights, job, contender)
            table.add(model, job, length, contender, made)
        if "ours" in o.contenders:
            table.row(length, "ours")["planned_bytes"] = planned_bytes(model, length, job, o)
        table.write()
        print(table.text(), flush=True)


def planned_bytes(model: Shape, length: int, job: Job, o) -> float:
    """What `plan` says of a step of `ours`."""
    setting = Setting(
        max_length=length,
        batch_tokens=length * len(job.rows),
        lora_r=LORA_R,
        gradient_checkpointing=job.gradient_checkpointing,
        dtype=o.dtype,
        device=o.device,
    )
    return sum(memory(model, setting).values())


def profile(net, job: Job, contender: str = "ours") -> str:
    """torch.profiler's table of one turn: the operations that take longest, longest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    weights = get_adapters(net)
    activities = [ProfilerActivity.CPU]
    key = "self_cpu_time_total"
    if net.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        key = "self_cuda_time_total"
    with profiler(activities=activities, record_shapes=True) as made:
        turn(net, weights, replace(job, steps=1), contender)
    averages = made.key_averages(group_by_input_shape=True)
    return averages.table(sort_by=key, row_limit=40, max_shapes_column_width=60)


def slowest(table: Table) -> int:
    """The length at which ours has the lowest MFU."""
    mine = [row for row in table.rows if row["contender"] == "ours" and "mfu" in row]
    return min(mine, key=lambda row: row["mfu"])["length"]


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; those that depend on the machine are filled in."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dry-run", action="store_true", help="a toy on the CPU, tiny lengths, one step each")
    add("--lengths", type=int, nargs="+", help="tokens of the longest row of a step")
    add("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    add("--rows", type=int, help="rows of a step, 1 by default")
    add("--steps", type=int, help="steps of a turn behind its warm-up, 3 by default")
    add("--rounds", type=int, help="turns of each contender per length, 3 by default")
    add("--layers", type=int, help="of the model; all by default")
    add("--dtype", choices=("bfloat16", "float16", "float32"), help="that it computes in")
    add("--no-checkpointing", action="store_true", help="keep all activations")
    add("--out", type=Path, help="results/gpu-DATE.json by default; nowhere in a dry run")
    add("--profile", action="store_true", help="write torch.profiler's table beside it as well")
    o = parser.parse_args(arguments)
    if not o.dry_run and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --dry-run tries everything on the CPU")
    dry = o.dry_run
    o.device = "cpu" if dry else "cuda"
    o.dtype = o.dtype or ("float32" if dry else "bfloat16")
    o.lengths = sorted(o.lengths or ((32, 64) if dry else LENGTHS))
    o.rows = o.rows or (2 if dry else 1)
    o.steps = o.steps or (1 if dry else 3)
    o.rounds = o.rounds or (1 if dry else 3)
    if not dry and o.out is None:
        o.out = RESULTS / f"gpu-{datetime.now():%Y%m%d-%H%M}.json"
    return o


def head_of(model: Shape, o) -> dict:
    """What the file says of the machine and the setting."""
    cuda = o.device == "cuda"
    about = {
        "lengths": o.lengths,
        "rows": o.rows,
        "steps": o.steps,
        "rounds": o.rounds,
        "lora_r": LORA_R,
        "dtype": o.dtype,
        "gradient_checkpointing": not o.no_checkpointing,
    }
    return {
        "version": 1,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name() if cuda else "none: a dry run on a CPU",
        "cuda": torch.version.cuda if cuda else None,
        "cpu": cpu(),
        "versions": versions(),
        "shape": asdict(model),
        "setting": about,
        "matmul": matmul_limit(o.device, getattr(torch, o.dtype)),
    }


def run(o) -> Table:
    """Build the model, measure it, write and return the table."""
    values = dict(rehearse.TOY if o.dry_run else SHAPES[MODEL])
    if o.layers:
        values["num_hidden_layers"] = o.layers
    model = shape("toy" if o.dry_run else MODEL, values)
    table = Table(head_of(model, o), o.out)
    base, _ = rehearse.build(values, dtype=getattr(torch, o.dtype), device=o.device)
    jobs = {
        length: Job(
            random_rows(o.rows, length, model.vocab),
            steps=o.steps,
            gradient_checkpointing=not o.no_checkpointing,
        )
        for length in o.lengths
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        unsloth = "Unsloth" in o.contenders and available("Unsloth") and not o.dry_run
        if unsloth:
            unsloth_peer.write_base(base, folder)
        net = lora.attach(base, lora_r=LORA_R, lora_alpha=2 * LORA_R, seed=0)
        if unsloth:
            save_file(get_adapters(net), folder / "adapters.safetensors")
        measure(net, model, jobs, table, o, folder)
    if o.profile:
        length = slowest(table)
        text = f"ours, {length} tokens\n{profile(net, jobs[length])}\n"
        if o.out:
            o.out.with_suffix(".profile.txt").write_text(text, encoding="utf-8")
        else:
            print(text)
    return table


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    o = options(arguments)
    table = run(o)
    limit = table.head["matmul"]
    print(
        f"\n{table.head['gpu']}; MFU is of {limit['operations_per_second'] / 1e12:.3g} tera "
        f"operations per second, a {limit['dtype']} product of {limit['size']} by "
        f"{limit['size']} in this run"
    )
    if o.out:
        print(f"written to {o.out}")


if __name__ == "__main__":
    main()

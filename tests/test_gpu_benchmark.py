"""The benchmark for a GPU, as its dry run goes through it on a CPU."""

import json

import pytest
import torch

from benchmarks import gpu, trainers, unsloth_peer
from instruct_course.plan import rehearse
from instruct_course.plan.memory import Setting, memory, operations
from instruct_course.plan.shapes import shape
from instruct_course.train import batch, engine

TOY = shape("toy", rehearse.TOY)
MEASURED = ["ours", "ours, plain", "transformers + PEFT"]
FIELDS = {
    "length",
    "contender",
    "turns",
    "losses",
    "peak_bytes",
    "tokens",
    "operations",
    "seconds_per_step",
    "tokens_per_second",
    "mfu",
}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """(the options, the table, its file) of a dry run."""
    out = tmp_path_factory.mktemp("gpu") / "gpu-dry.json"
    o = gpu.options(["--dry-run", "--out", str(out), "--rounds", "2", "--profile"])
    table = gpu.run(o)
    return o, table, out


def test_the_rows_of_a_dry_run(dry_run):
    o, table, out = dry_run
    made = json.loads(out.read_text(encoding="utf-8"))
    assert made["rows"] == table.rows and made["version"] == 1
    assert made["gpu"].startswith("none") and made["setting"]["gradient_checkpointing"]
    assert [(r["length"], r["contender"]) for r in table.rows] == [
        (length, name) for length in (32, 64) for name in gpu.CONTENDERS
    ]
    for row in table.rows:
        if row["contender"] not in MEASURED:
            assert "failed" in row or set(row) == FIELDS
            continue
        mine = {"planned_bytes"} if row["contender"] == "ours" else set()
        assert set(row) == FIELDS | mine
        assert len(row["turns"]) == 2 and len(row["losses"]) == 2
        # a row of full length and one of three quarters
        assert row["tokens"] == row["length"] + row["length"] * 3 // 4
        step = row["seconds_per_step"]
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / step)
        limit = made["matmul"]["operations_per_second"]
        assert row["mfu"] == pytest.approx(row["operations"] / step / limit)


def test_all_contenders_have_the_same_losses(dry_run):
    """The same rows and weights: the losses agree before and behind the first step."""
    _, table, _ = dry_run
    for length in (32, 64):
        rows = [r for r in table.rows if r["length"] == length and "losses" in r]
        assert len(rows) >= len(MEASURED)
        first = rows[0]["losses"]
        assert first[1] < first[0]
        for row in rows:
            assert row["losses"] == pytest.approx(first, rel=1e-6)


def test_the_plan_beside_the_peak_is_the_plan(dry_run):
    o, table, _ = dry_run
    setting = Setting(
        max_length=64,
        batch_tokens=128,
        gradient_checkpointing=True,
        dtype="float32",
        device="cpu",
    )
    wanted = sum(memory(TOY, setting).values())
    assert table.row(64, "ours")["planned_bytes"] == pytest.approx(wanted)


def test_the_table_and_the_profile_can_be_read(dry_run):
    _, table, out = dry_run
    lines = table.text().splitlines()
    assert len(lines) == 1 + 2 * len(gpu.CONTENDERS)
    row = table.row(64, "ours")
    line = next(x for x in lines if x.startswith("     64  ours  "))
    assert f"{100 * row['mfu']:.1f}%" in line and f"{row['losses'][-1]:.4f}" in line
    text = out.with_suffix(".profile.txt").read_text(encoding="utf-8")
    assert text.startswith(f"ours, {gpu.slowest(table)} tokens") and "aten::mm" in text


def test_mfu_of_a_known_case():
    """A model of one layer with one head of two, counted by hand."""
    tiny = shape(
        "tiny",
        {
            "model_type": "llama",
            "vocab_size": 10,
            "hidden_size": 2,
            "intermediate_size": 3,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
        },
    )
    (row,) = gpu.random_rows(1, 32, 10)
    N, M, r = 32, 16, 16
    narrow, wide = 2 * 2, 2 * 3  # weights of q, k, v, o and of gate, up, down
    # keys and values of all tokens, the rest of the supervised ones; nothing trained lies below
    # q, k and v, so that their inputs get no gradient
    body = 2 * (2 * N * narrow + M * narrow) + 2 * 2 * (M * narrow + 3 * M * wide)

    def adapter(n, inner, out, reads):
        return 2 * n * r * (inner * (2 + reads) + 3 * out)

    lora = 2 * adapter(N, 2, 2, 0) + adapter(M, 2, 2, 0) + adapter(M, 2, 2, 1)
    lora += 2 * adapter(M, 2, 3, 1) + adapter(M, 3, 2, 1)
    attention = 2 * M * N * 2 * (2 + 4)
    head = 2 * 2 * M * 2 * 10
    needed = gpu.needed_operations(tiny, [row], r)
    assert needed == body + lora + attention + head
    assert gpu.needed_operations(tiny, [row, row], r) == 2 * needed
    assert gpu.mfu(needed, 0.5, 8.0 * needed) == 0.25


def test_a_row_of_the_toy_counts_as_the_plan_counts():
    rows = gpu.random_rows(1, 64, TOY.vocab)
    alone = Setting(max_length=64, batch_tokens=64)
    assert gpu.needed_operations(TOY, rows) == sum(operations(TOY, alone).values())


def toy_net():
    base, _ = rehearse.build(rehearse.TOY, dtype=torch.float32, say=lambda text: None)
    return gpu.lora.attach(base, lora_r=gpu.LORA_R, seed=0)


def test_lack_of_memory_is_a_row_and_the_others_go_on(monkeypatch, tmp_path):
    """A contender that fails is not tried again; the file has each turn before the next."""
    seen = []
    out = tmp_path / "gpu.json"

    def fails(net, job, clock):
        seen.append("fails")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    def broken(net, job, clock):
        seen.append("broken")
        written = json.loads(out.read_text(encoding="utf-8"))["rows"]
        assert [row.get("failed") for row in written] == ["out of memory", None, None]
        raise ValueError("no such kernel\nand more")

    given = {"ours, plain": fails, "transformers + PEFT": broken, "TRL": trainers.ours}
    monkeypatch.setattr(gpu, "TRAINERS", given)
    monkeypatch.setattr(gpu, "NEEDS", {})
    o = gpu.options(
        ["--dry-run", "--rounds", "2", "--lengths", "32", "--out", str(out), "--contenders"]
        + list(given)
    )
    table = gpu.run(o)
    assert seen == ["fails", "broken"]
    assert table.row(32, "transformers + PEFT")["failed"] == "ValueError: no such kernel"
    assert len(table.row(32, "TRL")["turns"]) == 2
    assert "out of memory" in table.text()


def test_a_turn_leaves_the_adapters_as_they_were():
    net = toy_net()
    weights = trainers.get_adapters(net)
    job = trainers.Job(gpu.random_rows(2, 32, TOY.vocab), steps=1, lr=1e-2)
    made = gpu.turn(net, weights, job, "ours")
    assert made["losses"][1] < made["losses"][0]
    after = trainers.get_adapters(net)
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert all(p.grad is None for p in net.parameters())


def test_what_is_written_for_another_process_is_the_same_model(tmp_path):
    from transformers import AutoModelForCausalLM

    base, _ = rehearse.build(rehearse.TOY, dtype=torch.float32, say=lambda text: None)
    unsloth_peer.write_base(base, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    packed = batch.pack(gpu.random_rows(1, 32, TOY.vocab))
    with torch.no_grad():
        wanted, got = (engine.batch_loss(m, packed)[0].item() for m in (base, again))
    assert got == pytest.approx(wanted, rel=1e-6)


def test_without_a_gpu_only_a_dry_run_begins(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.options([])
    assert "--dry-run tries everything on the CPU" in capsys.readouterr().err

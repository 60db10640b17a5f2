"""The matrix products that a training step cannot do without: a list with the number of operations of each, and the time that they take alone."""

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Shape:
    """A batch as the engine sees it. tokens: N in the packed batch; asked: M supervised; own: (rows, longest) without the common prefix of `prefix` tokens;
    most: supervised tokens of the row that has most."""

    tokens: int
    asked: int
    own: tuple[int, int]
    prefix: int
    most: int


def shape_of(packed) -> Shape:
    """The shape of a `batch.PackedBatch`."""
    wanted = (packed.targets != -100).nonzero()[:, 0]
    row = packed.unpad_indices[wanted - packed.prefix_length] // packed.pad_indices.shape[1]
    return Shape(
        packed.input_ids.shape[1],
        len(wanted),
        tuple(packed.pad_indices.shape),
        packed.prefix_length,
        int(torch.bincount(row, minlength=1).max()),
    )


@dataclass(frozen=True)
class Matmul:
    """`batch` products of (rows, inner) by (inner, cols). kind: 'forward' is x Wᵀ, 'backward' is g W, both with the weight `name` of (out, in);
    'weights' is gᵀ x, and 'plain' has no weight."""

    part: str
    kind: str
    rows: int
    inner: int
    cols: int
    name: str = ""
    batch: int = 1

    @property
    def operations(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.cols


def groups(c) -> dict[str, tuple[tuple[int, ...], int]]:
    """{name: (outputs of its layers, inputs)} of the linear layers of one layer of a Llama, those that read the same input together."""
    d = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    q, kv, H, F = (
        c.num_attention_heads * d,
        c.num_key_value_heads * d,
        c.hidden_size,
        c.intermediate_size,
    )
    return {"qkv": ((q, kv, kv), H), "o": ((H,), q), "gate": ((F, F), H), "down": ((H,), F)}


def _linear(
    name: str, sizes, inner: int, rows: int, rank: int, *, forward: int, below: bool, split=None
) -> list[Matmul]:
    """One group: `forward` times x Wᵀ, and g W where something `below` wants it; with its adapters. split: rows of each layer where they differ."""
    split, out = split or [rows] * len(sizes), []
    for n in sorted(set(split)):
        some = [s for s, m in zip(sizes, split) if m == n]
        out += [Matmul("body", "forward", n, inner, sum(some), f"{name}.{n == rows}")] * forward
        out += [Matmul("body", "backward", n, sum(some), inner, f"{name}.{n == rows}")] * below
        r, A = rank * len(some), f"{name}.{n == rows}.A"
        if rank:
            out += [Matmul("adapters", "forward", n, inner, r, A)] * forward + [
                Matmul("adapters", "weights", r, n, inner)
            ]
            out += [Matmul("adapters", "backward", n, r, inner, A)] * below
            for i, s in enumerate(some):
                B = f"{name}.{n == rows}.B{i}"
                out += [Matmul("adapters", "forward", n, rank, s, B)] * forward + [
                    Matmul("adapters", "backward", n, s, rank, B),
                    Matmul("adapters", "weights", s, n, rank),
                ]
    return out


def step(c, shape: Shape, *, rank: int = 16, forward: int = 1) -> list[Matmul]:
    """All products of one step for a model with configuration `c`: the last layer's queries, output projection and MLP on the supervised positions only.

    forward: how often each layer is computed forwards, 2 with checkpointing. Nothing below the first layer wants a gradient. The parts are body,
    head, adapters and attention.
    """
    N, M, last, out = shape.tokens, shape.asked, c.num_hidden_layers - 1, []
    d, n_kv = (
        getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
        c.num_key_value_heads,
    )
    g = c.num_attention_heads // n_kv
    for i in range(last + 1):
        for name, (sizes, inner) in groups(c).items():
            rows, split = (M, None) if i == last else (N, None)
            if i == last and name == "qkv":
                rows, split = N, [M, N, N]
            out += _linear(
                f"{i}.{name}",
                sizes,
                inner,
                rows,
                rank,
                forward=forward,
                below=name != "qkv" or i > 0,
                split=split,
            )
        (B, S), p = shape.own, shape.prefix
        asks = [(B * n_kv, g * (shape.most if i == last else S), p + S)] + (
            [(n_kv, g * p, p)] if p and i < last else []
        )
        for batch, a, k in asks:

            def product(rows, inner, cols, batch=batch):
                return Matmul("attention", "plain", rows, inner, cols, batch=batch)

            out += [product(a, d, k), product(a, k, d)] * forward + [
                product(a, d, k),
                product(a, k, d),
                product(k, a, d),
                product(k, a, d),
            ]
    return out + [
        Matmul("head", "forward", M, c.hidden_size, c.vocab_size, "head"),
        Matmul("head", "backward", M, c.vocab_size, c.hidden_size, "head"),
    ]


class Clock:
    """Runs products on operands that are made beforehand and gives their seconds.

    Each weight is a tensor of its own and comes from memory as in a real step; `layers`: of so many layers, for a model whose layers are each
    larger than the caches. Results go into tensors that are there already.
    """

    def __init__(self, dtype=torch.bfloat16, layers: int | None = None):
        self.dtype, self.layers, self.made = dtype, layers, {}

    def _tensor(self, key, *shape) -> torch.Tensor:
        if key not in self.made:
            self.made[key] = torch.randn(*shape).to(self.dtype)
        return self.made[key]

    def _weight(self, name: str, out: int, inner: int) -> torch.Tensor:
        layer, _, rest = name.partition(".")
        return self._tensor(
            ("weight", int(layer) % self.layers if self.layers and rest else layer, rest, out),
            out,
            inner,
        )

    def prepare(self, p: Matmul) -> tuple:
        """(a, b, result) of one product."""
        if p.batch > 1:
            a, b = (
                self._tensor(("a", p.batch, p.rows, p.inner), p.batch, p.rows, p.inner),
                self._tensor(("b", p.batch, p.inner, p.cols), p.batch, p.inner, p.cols),
            )
            return a, b, self._tensor(("r", p.batch, p.rows, p.cols), p.batch, p.rows, p.cols)
        a = (
            self._tensor(("a", p.inner, p.rows), p.inner, p.rows).T
            if p.kind == "weights"
            else self._tensor(("a", p.rows, p.inner), p.rows, p.inner)
        )
        b = (
            self._weight(p.name, p.cols, p.inner).T
            if p.kind == "forward"
            else self._weight(p.name, p.inner, p.cols)
            if p.kind == "backward"
            else self._tensor(("b", p.inner, p.cols), p.inner, p.cols)
        )
        return a, b, self._tensor(("r", p.rows, p.cols), p.rows, p.cols)

    def seconds(self, products: list[Matmul]) -> dict[str, float]:
        """{part: seconds} of running all products once."""
        out = {}
        for part in dict.fromkeys(p.part for p in products):
            ready = [(*self.prepare(p), p.batch > 1) for p in products if p.part == part]
            started = time.perf_counter()
            for a, b, result, batched in ready:
                (torch.bmm if batched else torch.mm)(a, b, out=result)
            out[part] = time.perf_counter() - started
        for key in [
            k for k in self.made if k[0] != "weight"
        ]:  # operands of other shapes would only pile up
            del self.made[key]
        return out

"""Which equations of a notebook are checked, and whether a check's library side calls a library.

Names are followed through the cells in the order in which they run: each name carries the set of
library calls that it was made from. The library side must add a call that the hand side does not
have; copying, arithmetic and reshaping are no library.
"""

import ast
import re

LIBRARY = (
    "torch.nn.",
    "torch.softmax",
    "torch.log_softmax",
    "torch.logsumexp",
    "torch.distributions.",
    "torch.special.",
    "torch.optim.",
    "torch.linalg.",
    "torch.autograd.",
    "torch.utils.",
    "torch.bucketize",
    "torch.fake_quantize",
    "transformers.",
    "peft.",
    "bitsandbytes.",
    "tokenizers.",
    "datasets.",
    "rouge_score.",
    "sacrebleu.",
    "gguf.",
    "scipy.",
)
GIVES = {
    "instruct_course.model.load.load_base": "transformers.",
    "instruct_course.model.quantize.bitsandbytes": "bitsandbytes.",
}  # our doors to libraries' objects
METHODS = {"softmax", "log_softmax", "logsumexp", "backward"}  # of any tensor
COPIES = {
    "clone",
    "detach",
    "double",
    "float",
    "half",
    "to",
    "cpu",
    "item",
    "tolist",
    "numpy",
    "requires_grad_",
    "copy",
    "deepcopy",
    "T",
    "numel",
    "view",
    "reshape",
    "flatten",
    "sum",
    "mean",
    "abs",
    "exp",
    "log",
    "sqrt",
    "max",
    "min",
    "amax",
    "chunk",
    "split",
    "unflatten",
    "transpose",
    "squeeze",
    "unsqueeze",
    "round",
}


class Follower:
    """Walks code in order.

    `made[name]` is the set of library calls that a name was made from, `alias[name]` what it was
    imported as, and `walked` holds the names that a backward pass went through.
    """

    def __init__(self):
        self.made = {}
        self.alias = {}
        self.walked = set()

    def dotted(self, node) -> str:
        """`F.cross_entropy` as torch.nn.functional.cross_entropy; '' for what is no such chain."""
        if isinstance(node, ast.Name):
            return self.alias.get(node.id, "")
        if isinstance(node, ast.Attribute):
            root = self.dotted(node.value)
            return f"{root}.{node.attr}" if root else ""
        return ""

    def root(self, node) -> str:
        """The name that a chain of attributes, subscripts and calls begins with."""
        while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
            node = node.func if isinstance(node, ast.Call) else node.value
        return node.id if isinstance(node, ast.Name) else ""

    def call(self, node: ast.Call) -> set[str]:
        """The library call that this one is, if it is one."""
        name = self.dotted(node.func)
        if name in GIVES:
            return {GIVES[name]}
        if name:
            return {name} if (name + ".").startswith(LIBRARY) else set()
        last = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if last in METHODS:
            return {"." + last}
        return (
            {ast.unparse(node)}
            if self.made.get(self.root(node.func)) and last not in COPIES
            else set()
        )

    def calls(self, node) -> set[str]:
        """All library calls that an expression is made from."""
        out = set()
        comprehensions = []
        for n in ast.walk(node):
            if isinstance(n, ast.comprehension):
                comprehensions.append(n)
        for n in comprehensions:
            self.loop(n)
        for n in ast.walk(node):
            if isinstance(n, ast.Name):
                out |= self.made.get(n.id, set())
            elif isinstance(n, ast.Call):
                out |= self.call(n)
            elif isinstance(n, ast.Attribute) and n.attr == "grad" and self.root(n) in self.walked:
                out.add("torch.autograd: " + ast.unparse(n))
        return out

    def assign(self, target, value, more=False):
        """`a, b = x, y` binds each to its own side."""
        if (
            isinstance(target, ast.Tuple)
            and isinstance(value, ast.Tuple)
            and len(target.elts) == len(value.elts)
        ):
            for t, v in [(t, self.calls(v)) for t, v in zip(target.elts, value.elts)]:
                self.bind(t, v, more)
        else:
            self.bind(target, self.calls(value), more)

    def bind(self, target, calls: set[str], more=False):
        for n in ast.walk(target):
            if isinstance(n, ast.Name):
                self.made[n.id] = (
                    self.made.get(n.id, set()) | calls
                    if more or not isinstance(target, (ast.Name, ast.Tuple, ast.List))
                    else set(calls)
                )

    def loop(self, node):
        """The target of a loop is made from what it runs over."""
        self.bind(node.target, self.calls(node.iter))
        if any(isinstance(n, ast.Name) and n.id in self.walked for n in ast.walk(node.iter)):
            self.walked |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}

    def run(self, statements):
        """Follow statements; yields each call of `verify` where it happens."""
        for s in statements:
            if isinstance(s, (ast.Import, ast.ImportFrom)):
                for a in s.names:
                    whole = (
                        f"{s.module}.{a.name}"
                        if isinstance(s, ast.ImportFrom)
                        else a.name
                        if a.asname
                        else a.name.split(".")[0]
                    )
                    self.alias[a.asname or a.name.split(".")[0]] = whole
                    self.made.pop(a.asname or a.name, None)
            elif isinstance(s, (ast.FunctionDef, ast.ClassDef)):
                self.alias.pop(s.name, None)
                self.made[s.name] = set().union(*(self.calls(b) for b in s.body))
            elif isinstance(s, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
                for target in s.targets if isinstance(s, ast.Assign) else [s.target]:
                    if isinstance(target, ast.Name) and s.value is not None:
                        self.alias.pop(target.id, None)
                        if self.dotted(s.value):
                            self.alias[target.id] = self.dotted(s.value)
                        elif (
                            isinstance(s.value, ast.Call)
                            and self.dotted(s.value.func)
                            == "instruct_course.model.quantize.bitsandbytes"
                        ):
                            self.alias[target.id] = "bitsandbytes"
                    if s.value is not None:
                        self.assign(target, s.value, more=isinstance(s, ast.AugAssign))
                if isinstance(s.value, ast.Call) and self.dotted(s.value.func).startswith(
                    "torch.optim."
                ):  # an optimizer changes what it is given
                    self.bind(s.value, self.calls(s.value), more=True)
            elif isinstance(s, ast.Expr):
                for n in ast.walk(s.value):
                    if (
                        isinstance(n, ast.Call)
                        and isinstance(n.func, ast.Name)
                        and n.func.id == "verify"
                    ):
                        yield n
                if any(
                    isinstance(n, ast.Attribute) and n.attr == "backward" for n in ast.walk(s.value)
                ):  # it leaves gradients in what it came from
                    for n in ast.walk(s.value):
                        if isinstance(n, ast.Name) and n.id not in self.alias:
                            self.walked.add(n.id)
            elif isinstance(s, (ast.For, ast.With, ast.If, ast.While, ast.Try)):
                if isinstance(s, ast.For):
                    self.loop(s)
                for item in getattr(s, "items", []):
                    if item.optional_vars is not None:
                        self.bind(item.optional_vars, self.calls(item.context_expr))
                for part in ("body", "orelse", "finalbody"):
                    yield from self.run(getattr(s, part, []))


def count(n: int, word: str) -> str:
    """ "1 check", "2 checks"."""
    return f"{n} {word}" + ("" if n == 1 else "s")


def problems(cells) -> list[str]:
    """What is wrong with a notebook's equations and checks.

    One sentence for each display equation without a tag, tag without exactly one check, check
    without a tag, and check without a library.
    """
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    out = [
        f"a display equation has no tag: {e.strip()[:60]}"
        for e in re.findall(r"\$\$(.+?)\$\$", text, flags=re.S)
        if r"\tag{" not in e
    ]
    tags = re.findall(r"\\tag\{([^}]+)\}", text)
    checks = []
    follower = Follower()
    for cell in cells:
        if cell.cell_type != "code":
            continue
        source = re.sub(r"^[%!].*$", "", cell.source, flags=re.M)
        for check in follower.run(ast.parse(source).body):
            if not (
                isinstance(check.args[0], ast.Constant) and isinstance(check.args[0].value, str)
            ):
                out.append(f"a check does not name its equation: {ast.unparse(check)[:120]}")
                continue
            checks.append(check.args[0].value)
            if not follower.calls(check.args[2]) - follower.calls(check.args[1]):
                side = ast.unparse(check.args[2])[:80]
                out.append(
                    f"({checks[-1]}) its library side calls no library "
                    f"that the hand side does not: {side}"
                )
    out += [
        f"({t}) has {count(tags.count(t), 'equation')} and {count(checks.count(t), 'check')}"
        for t in sorted({*tags, *checks})
        if not tags.count(t) == checks.count(t) == 1
    ]
    return out

"""Computing: a product with its gradient, a 4-bit step, number formats and threads."""

from instruct_course.common.forks import cores
from instruct_course.doctor.check import Check, fault, in_one_line, ok, warning
from instruct_course.doctor.packages import check_package
from instruct_course.doctor.remedy import cure, reinstall, set_variable

__all__ = ["check_torch", "check_bitsandbytes", "check_formats", "four_bit_errors"]

# Half the widest gap of NF4 is 0.152 of a block's largest weight.
WEIGHT_ERROR = 0.16
GRADIENT_ERROR = 1e-3


def check_torch() -> Check:
    """The package, and a product with its gradient."""
    check = check_package("torch")
    if check.status == "fault":
        return check
    import torch

    x = torch.arange(6.0).view(2, 3).requires_grad_()
    product = x @ x.T
    product.sum().backward()
    if product.tolist() != [[5, 14], [14, 50]] or x.grad.tolist() != [[6, 10, 14]] * 2:
        found = f"{check.found} multiplies wrongly: {product.tolist()}"
        return fault("torch", found, reinstall("torch"))
    return check


def check_bitsandbytes() -> Check:
    """The package, its native library, and one step of QLoRA."""
    check = check_package("bitsandbytes")
    if check.status == "fault":
        return check
    import bitsandbytes
    import torch

    try:
        bitsandbytes.cextension.get_native_library()
    except Exception as error:
        # the package imports without it, and goes on slowly where it can
        found = f"{check.found} imports, and its native library does not load: {in_one_line(error)}"
        return fault("bitsandbytes", found, cure(error, "bitsandbytes"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights, gradients = four_bit_errors(device)
    # written so that NaN is wrong too
    if not (weights < WEIGHT_ERROR and gradients < GRADIENT_ERROR):
        found = (
            f"{check.found}: a 4-bit step on the {device} goes wrong "
            f"(weights off by {weights:.2g}, gradients by {gradients:.2g})"
        )
        return fault("bitsandbytes", found, reinstall("bitsandbytes"))
    found = f"{check.found}; a 4-bit step on the {device} is right"
    return Check("bitsandbytes", check.status, found, check.mend)


def four_bit_errors(device: str) -> tuple[float, float]:
    """One step of QLoRA on a small layer, beside the same step on the dequantised weights.

    Args:
        device: "cpu" or "cuda".

    Returns:
        (largest error of a dequantised weight, relative to the largest weight;
        largest relative error of a gradient, of the input and of both adapter matrices).
    """
    import bitsandbytes
    import torch

    draw = torch.Generator().manual_seed(0)
    shapes = ((48, 64), (5, 64), (4, 64), (48, 4), (5, 48))
    weight, *step = [torch.randn(shape, generator=draw) for shape in shapes]
    target = step.pop().to(device)
    options = {"quant_type": "nf4", "compress_statistics": True}
    layer = bitsandbytes.nn.Linear4bit(64, 48, bias=False, compute_dtype=torch.float32, **options)
    layer.weight = bitsandbytes.nn.Params4bit(weight.clone(), requires_grad=False, **options)
    layer = layer.to(device)
    dense = bitsandbytes.functional.dequantize_4bit(
        layer.weight.data, layer.weight.quant_state
    ).float()

    def gradients(base):
        x, a, b = (t.clone().to(device).requires_grad_() for t in step)
        (base(x) + x @ a.T @ b.T - target).square().mean().backward()
        return [t.grad for t in (x, a, b)]

    def plain(x):
        return x @ dense.T

    weight_error = ((dense.cpu() - weight).abs().max() / weight.abs().max()).item()
    pairs = zip(gradients(layer), gradients(plain))
    return weight_error, max(((g - h).norm() / h.norm()).item() for g, h in pairs)


def check_formats() -> Check:
    """The number formats that are chosen here, and threads beside cores."""
    import torch

    from instruct_course.model.load import compute_dtype

    small = str(compute_dtype("nano")).removeprefix("torch.")
    large = str(compute_dtype("7b")).removeprefix("torch.")
    threads = torch.get_num_threads()
    count = cores()
    found = f"nano in {small}, larger models in {large}; {threads} threads on {count} cores"
    if threads > count:
        setting = set_variable("OMP_NUM_THREADS", str(count))
        return warning("computes", found, f"{setting}  # more threads than cores wait")
    return ok("computes", found)

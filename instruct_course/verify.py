"""The checking habit: each numbered equation is compared with a library's result."""

__all__ = ["verify"]


def verify(tag: str, by_hand, by_library, *, atol: float = 1e-10) -> None:
    """Raise unless `by_hand` equals `by_library` within `atol`, and print one line when it does.

    Args:
        tag: the equation's number, such as "3.2".
        by_hand, by_library: tensors, arrays, numbers or lists of numbers, of the same shape and
            dtype; Python's floats count as float64.
        atol: the largest difference that is allowed.

    Raises:
        AssertionError: they differ; or one of them is NaN, shapes or dtypes differ (nothing is
            broadcast), or both are one object or share memory, which would prove nothing.
    """
    import torch

    assert by_hand is not by_library, (
        f"{tag}: the same object was given twice, which proves nothing"
    )
    a = _as_tensor(by_hand)
    b = _as_tensor(by_library)
    assert a.shape == b.shape, (
        f"{tag}: shapes differ, {tuple(a.shape)} by hand and {tuple(b.shape)} by library"
    )
    assert a.dtype == b.dtype, f"{tag}: dtypes differ, {a.dtype} by hand and {b.dtype} by library"
    assert a.numel(), f"{tag}: there is nothing to compare"
    assert a.data_ptr() != b.data_ptr(), f"{tag}: both sides are one memory, which proves nothing"
    a = a.double()
    b = b.double()
    for side, values in (("hand", a), ("library", b)):
        assert not values.isnan().any(), f"{tag}: a NaN on the {side} side"
    # equal infinities differ by nothing
    worst = torch.where(a == b, 0.0, (a - b).abs()).max().item()
    assert worst <= atol, f"{tag}: differs by {worst:.3g}, more than {atol:.0e}"
    bound = f"error ≤ {atol:.0e}" if atol else "no difference"
    print(f"({tag}) by hand = by library, {bound}")


def _as_tensor(value):
    """`value` as a tensor on the CPU, without its history."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return torch.as_tensor(np.asarray(value))

"""The checking habit: each numbered equation is compared with a library's result."""

__all__ = ["verify"]


def verify(tag: str, by_hand, by_library, *, atol: float = 1e-10) -> None:
    """Raise unless `by_hand` equals `by_library` within `atol`, and print one line when it does.

    Both sides: tensors, arrays, numbers or lists of numbers, of the same shape and the same dtype; Python's floats count as float64.
    NaN, silent broadcasting, two different dtypes, and one object or one memory given twice are refused.
    Errors: AssertionError that says what differs.
    """
    import numpy as np
    import torch

    assert by_hand is not by_library, (
        f"{tag}: the same object was given twice, which proves nothing"
    )
    a, b = (
        x.detach().cpu() if isinstance(x, torch.Tensor) else torch.as_tensor(np.asarray(x))
        for x in (by_hand, by_library)
    )
    assert a.shape == b.shape, (
        f"{tag}: shapes differ, {tuple(a.shape)} by hand and {tuple(b.shape)} by library"
    )
    assert a.dtype == b.dtype, f"{tag}: dtypes differ, {a.dtype} by hand and {b.dtype} by library"
    assert a.numel(), f"{tag}: there is nothing to compare"
    assert a.data_ptr() != b.data_ptr(), f"{tag}: both sides are one memory, which proves nothing"
    a, b = a.double(), b.double()
    assert not (a.isnan().any() or b.isnan().any()), (
        f"{tag}: a NaN on the {'hand' if a.isnan().any() else 'library'} side"
    )
    worst = (
        torch.where(a == b, 0.0, (a - b).abs()).max().item()
    )  # equal infinities differ by nothing
    assert worst <= atol, f"{tag}: differs by {worst:.3g}, more than {atol:.0e}"
    print(f"({tag}) by hand = by library, {f'error ≤ {atol:.0e}' if atol else 'no difference'}")

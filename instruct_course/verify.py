"""The checking habit: each numbered equation is compared with a library's result."""
__all__ = ["verify"]


def verify(tag: str, by_hand, by_library, *, atol: float = 1e-10) -> None:
    """Raise unless `by_hand` equals `by_library` within `atol`, and print one line when it does.

    Both sides: tensors, arrays or numbers of the same shape and the same dtype. NaN, silent broadcasting,
    two different dtypes, and one object given twice are refused.
    Errors: AssertionError that says what differs.
    """
    import torch
    assert by_hand is not by_library, f"{tag}: the same object was given twice, which proves nothing"
    sides = [x.detach() if isinstance(x, torch.Tensor) else torch.as_tensor(x) for x in (by_hand, by_library)]
    a, b = sides
    assert a.shape == b.shape, f"{tag}: shapes differ, {tuple(a.shape)} by hand and {tuple(b.shape)} by library"
    assert a.dtype == b.dtype, f"{tag}: dtypes differ, {a.dtype} by hand and {b.dtype} by library"
    assert a.numel(), f"{tag}: there is nothing to compare"
    shares = isinstance(by_hand, torch.Tensor) and isinstance(by_library, torch.Tensor) and a.data_ptr() == b.data_ptr()
    assert not shares, f"{tag}: both sides are one memory, which proves nothing"
    a, b = a.double(), b.double()
    assert not (a.isnan().any() or b.isnan().any()), f"{tag}: a NaN on the {'hand' if a.isnan().any() else 'library'} side"
    worst = (a - b).abs().nan_to_num(0.0).max().item() if torch.equal(a.isinf(), b.isinf()) else float("inf")
    assert worst <= atol, f"{tag}: differs by {worst:.3g}, more than {atol:.0e}"
    print(f"({tag}) by hand = by library, error ≤ {atol:.0e}")

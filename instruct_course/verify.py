"""The checking habit: each numbered equation is compared with a library's result."""

__all__ = ["check_answer", "verify"]


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


def check_answer(answer, expected, *, hint: str = "", atol: float = 1e-6) -> str:
    """Whether a reader's answer to an exercise is right, as a sentence to show.

    Args:
        answer: what the reader computed: a number, a text, a tensor or a list; None or `...` where
            there is no answer yet.
        expected: the right answer; numbers may differ by `atol`.
        hint: what is said of a wrong answer.

    Returns:
        A sentence in English and Chinese that does not tell the right answer.
    """
    if answer is None or answer is ...:
        return "No answer yet. Replace the dots and run this cell again. 还没有作答。"
    if _equal(answer, expected, atol):
        return "Right. 正确。"
    return f"Not yet. {hint} 再想一想。" if hint else "Not yet. 再想一想。"


def _equal(answer, expected, atol: float) -> bool:
    """Whether two texts are the same, or two arrays of numbers have one shape and are close."""
    import numpy as np

    if isinstance(expected, (str, bool)) or isinstance(answer, (str, bool)):
        return answer == expected
    try:
        a = _as_tensor(answer).double()
        b = _as_tensor(expected).double()
    except (TypeError, ValueError):
        return answer == expected
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=atol))


def _as_tensor(value):
    """`value` as a tensor on the CPU, without its history."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return torch.as_tensor(np.asarray(value))

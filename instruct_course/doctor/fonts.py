"""Pictures with Chinese in them."""

from pathlib import Path

from instruct_course.doctor.check import Check, fault, ok
from instruct_course.doctor.remedy import restore_course

__all__ = ["check_font"]


def check_font() -> Check:
    """A picture with Chinese in it, drawn as the lessons draw."""
    from instruct_course.common.files import ASSETS
    from instruct_course.common.plots import chinese_plots

    if not any((ASSETS / "fonts").glob("*.ttf")):
        return fault("font", "the course's font for Chinese is gone", restore_course())
    # outside of the try, so that what is wrong with matplotlib itself is told as its fault
    import matplotlib.backends.backend_agg  # noqa: F401

    try:
        chinese_plots()
    except (OSError, RuntimeError) as error:
        file = getattr(error, "filename", None) or ASSETS
        if not Path(file).is_relative_to(ASSETS):  # a file of matplotlib's own
            raise
        found = f"matplotlib cannot read the course's font: {error}"
        return fault("font", found, restore_course())
    missing = _missing_glyphs("指令 instruction")
    if missing:
        return fault("font", f"Chinese is drawn as boxes: {missing[0]}", restore_course())
    return ok("font", "matplotlib draws Chinese")


def _missing_glyphs(text: str) -> list[str]:
    """What matplotlib says of characters that it has no picture of, when it draws `text`."""
    import io
    import warnings

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((2, 1))
    figure.text(0.1, 0.5, text)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        FigureCanvasAgg(figure).print_png(io.BytesIO())
    return [str(w.message) for w in said if "missing from" in str(w.message)]

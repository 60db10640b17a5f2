"""Pictures on every machine."""

from instruct_course.common.files import ASSETS

__all__ = ["chinese_plots"]


def chinese_plots() -> None:
    """Let matplotlib fall back to the bundled font for Chinese characters, on every machine."""
    from matplotlib import font_manager, rcParams

    path = ASSETS / "fonts" / "DroidSansFallback-common.ttf"
    font_manager.fontManager.addfont(path)
    rcParams["font.family"] = ["DejaVu Sans", font_manager.FontProperties(fname=path).get_name()]
    rcParams["axes.unicode_minus"] = False

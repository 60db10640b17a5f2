"""The bundled font, and the curves of a run."""

from pathlib import Path

import pytest

from instruct_course.common import plots


def history(n, seconds=1.0, tokens=500, **more):
    return [
        {
            "step": i,
            "steps": n,
            "loss": 4 / i**0.5,
            "lr": 1e-3 * i / n,
            "grad_norm": 1 / i,
            "tokens": tokens,
            "seconds": seconds * i,
            **more,
        }
        for i in range(1, n + 1)
    ]


def test_chinese_plots_have_the_characters():
    from matplotlib import font_manager, rcParams

    plots.chinese_plots()
    font = font_manager.get_font(font_manager.findfont(rcParams["font.family"][1]))
    assert all(font.get_char_index(ord(c)) for c in "指令输入输出模型训练，。")


def test_curves_are_drawn_whole_with_held_out_points(tmp_path, monkeypatch):
    plain, held = (
        history(50),
        [h | ({"heldout_loss": 2.0} if h["step"] % 10 == 0 else {}) for h in history(50)],
    )
    plots.curves(plain, tmp_path / "a.png")
    plots.curves(held, tmp_path / "b.png")
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "b.png"} and (
        tmp_path / "a.png"
    ).read_bytes() != (tmp_path / "b.png").read_bytes()
    fig = plots.figure(6, 3)
    ax = fig.subplots()
    plots.plot_loss(ax, held)
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}
    assert lines["held out"] == [[s, 2.0] for s in (10, 20, 30, 40, 50)] and lines["one step"][
        3
    ] == [
        4,
        2.0,
    ]
    assert lines["running mean"][0] == pytest.approx([1, 4.0]) and (
        ax.get_xlabel(),
        ax.get_ylabel(),
    ) == ("step", "loss (nats per token)")
    constant = [h | {"loss": 1.5} for h in plain]
    ax.clear()
    plots.plot_loss(ax, constant)
    assert [y for _, y in ax.get_lines()[1].get_xydata().tolist()] == pytest.approx([1.5] * 50)
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(Path, "write_bytes", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        plots.curves(held, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before

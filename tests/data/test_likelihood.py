"""The models of encodings agree with what is known about the standards."""

from math import inf

import pytest

from instruct_course.data.likelihood import decoded, scores


def test_impossible_bytes_have_no_likelihood():
    found = scores(b"\x80\xff")
    assert found["utf-8"] == -inf and found["cp950"] == -inf and found[""] > -inf


@pytest.mark.parametrize(
    "text, codec",
    [
        ("请把下面的句子翻译成英文。", "gb18030"),
        ("請把下面的句子翻譯成英文。", "cp950"),
        ("오늘 날씨가 좋습니다", "cp949"),
        ("日本語を英語に翻訳してください。", "cp932"),
        ("日本語を英語に翻訳してください。", "euc_jp"),
        ("как дела сегодня", "koi8-r"),
        ("как дела сегодня", "cp1251"),
    ],
)
def test_a_sentence_is_likeliest_in_its_own_encoding(text, codec):
    found = scores(text.encode(codec))
    assert max(found, key=found.get) == codec


def test_the_score_is_a_sum_over_characters():
    """Twice the text has twice the score, but for the prior."""
    once, twice = (scores("的一是".encode("gbk") * n)["gb18030"] for n in (1, 2))
    assert once == pytest.approx(3 * -5.5) and twice == pytest.approx(6 * -5.5)


def test_a_sample_may_end_within_a_character():
    assert decoded("猫猫".encode()[:-1], "utf-8") == "猫"
    assert decoded("猫".encode("gbk")[:-1] + b"\n", "gb18030") is None

"""UTF-8, UTF-16, GBK and Big5 are told from bytes; what is not certain is refused."""

import codecs
import gzip

import pytest

from instruct_course.data.encoding import codec_of, detect, encoding_of, open_bytes, open_text
from instruct_course.data.files import read_rows

SIMPLIFIED = (
    "请把下面的句子翻译成英文。",
    "中国的首都在哪里？",
    "今天天气很好，我们去公园玩吧。",
    "请用一句话说明什么是机器学习。",
    "这本书是我昨天在学校买的。",
    "写一首关于春天的短诗，不要超过四行。",
    "他们没有时间，所以不能来开会。",
    "如果你有问题，可以随时告诉老师。",
    "把数字从小到大排列出来。",
    "我喜欢吃苹果，也喜欢喝茶。",
)
TRADITIONAL = (
    "請把下面的句子翻譯成英文。",
    "中國的首都在哪裡？",
    "今天天氣很好，我們去公園玩吧。",
    "請用一句話說明什麼是機器學習。",
    "這本書是我昨天在學校買的。",
    "寫一首關於春天的短詩，不要超過四行。",
    "他們沒有時間，所以不能來開會。",
    "如果你有問題，可以隨時告訴老師。",
    "把數字從小到大排列出來。",
    "我喜歡吃蘋果，也喜歡喝茶。",
)
OTHERS = {
    "cp1252": (
        "café",
        "naïve",
        "Größe",
        "déjà vu",
        "São Paulo",
        "£5 ± 2 °C",
        "CRÉÉE",
        "“quoted” — text",
        "é",
    ),
    "cp932": ("こんにちは", "日本語を英語に翻訳してください。", "東京", "ｶﾀｶﾅ", "今日は天気がいい"),
    "cp949": (
        "안녕하세요",
        "한국어",
        "오늘 날씨가 좋습니다",
        "대한민국의 수도는 서울입니다",
        "방법",
    ),
    "euc_jp": ("日本語", "こんにちは", "北海道", "大学の研究室"),
    "koi8-r": ("привет", "как дела", "Москва", "СССР"),
    "cp1251": ("привет", "как дела", "Москва", "СССР", "ПРИВЕТ МИР"),
    "cp1253": ("Καλημέρα", "ΑΘΗΝΑ"),
    "cp874": ("สวัสดี", "ประเทศไทย"),
    "cp1256": ("مرحبا", "ما هي عاصمة فرنسا"),
    "cp1255": ("שלום עולם",),
    "cp1250": ("zażółć gęślą jaźń", "příliš žluťoučký kůň"),
    "mac_roman": ("café", "Größe"),
    "cp866": ("привет",),
}


def table(text):
    return f"instruction,output\n{text},ok\n"


def outcome(data):
    """The codec, or None for a refusal."""
    try:
        return detect(data)
    except ValueError:
        return None


@pytest.mark.parametrize("text", SIMPLIFIED)
def test_a_sentence_in_gbk_is_read(text):
    for codec in ("gbk", "gb18030"):
        assert detect(table(text).encode(codec)) == "gb18030"


@pytest.mark.parametrize("text", TRADITIONAL)
def test_a_sentence_in_big5_is_read(text):
    assert detect(table(text).encode("cp950")) == "cp950"


@pytest.mark.parametrize("length", [3, 4, 5, 7])
@pytest.mark.parametrize("texts, codec", [(SIMPLIFIED, "gb18030"), (TRADITIONAL, "cp950")])
def test_a_short_text_is_read_rightly_or_refused(texts, codec, length):
    found = [
        outcome(table(text[i : i + length]).encode(codec))
        for text in texts
        for i in range(len(text) - length + 1)
    ]
    assert set(found) <= {codec, None}
    assert found.count(codec) > len(found) / 3


@pytest.mark.parametrize("codec", OTHERS)
def test_another_encoding_is_never_read_as_chinese(codec):
    """Nor as anything else: alone, twice, in longer tables."""
    for text in (*OTHERS[codec], " ".join(OTHERS[codec]), "\n".join(OTHERS[codec] * 3)):
        for data in (table(text).encode(codec), text.encode(codec)):
            with pytest.raises(ValueError, match="not UTF-8"):
                detect(data)


@pytest.mark.parametrize(
    "text",
    [t for texts in OTHERS.values() for t in texts if t not in ("é", "СССР")]
    + [*SIMPLIFIED, *TRADITIONAL, "猫", "crème", "à Paris", "25 °C", "½ cup", "🙂", "plain"],
)
def test_utf8_is_utf8(text):
    assert detect(table(text).encode()) == "utf-8"
    assert detect(table(text).encode("utf-8-sig")) == "utf-8-sig"


def test_bytes_that_are_both_are_refused():
    """The two bytes of è are 猫 in GBK; beside letters they are è, alone nobody knows."""
    assert "猫".encode("gbk") == "è".encode()
    with pytest.raises(ValueError, match="encoding is not certain.*'è' in utf-8.*'猫' in gbk"):
        detect(table("猫").encode("gbk"))


@pytest.mark.parametrize(
    "codec, found",
    [
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
    ],
)
@pytest.mark.parametrize("text", ["plain", "一二三四五六七八九十一一一一", *SIMPLIFIED[:3]])
def test_utf16_is_found_with_and_without_a_mark(codec, found, text):
    data = table(text).encode(codec)
    assert detect(data) == found
    assert data.decode(codec) == table(text)


def test_big_endian_utf16_with_a_mark():
    assert detect(codecs.BOM_UTF16_BE + table("猫").encode("utf-16-be")) == "utf-16"


@pytest.mark.parametrize("data", [b"PK\x03\x04\x00\x00\x08\x00", bytes(range(256)), b"\0" * 40])
def test_zero_bytes_are_no_text(data):
    with pytest.raises(ValueError, match="zero bytes"):
        detect(data)


def test_a_refusal_shows_the_words_and_the_cure():
    with pytest.raises(ValueError) as error:
        detect(table("café").encode("cp1252"))
    assert "'café' in cp1252" in str(error.value) and "--encoding cp1252" in str(error.value)
    with pytest.raises(ValueError) as error:
        detect(table("钉").encode("gbk"))
    said = str(error.value)
    assert "'钉' in gbk" in said and "--encoding" in said and "\n" not in said


def test_a_cut_character_at_the_end_of_a_sample_is_no_error():
    assert detect(table("请把这句话翻译成英文。").encode("gbk")[:-7]) == "gb18030"
    assert detect("猫猫猫".encode()[:-1]) == "utf-8"


def test_a_file_is_opened_in_its_encoding_and_that_is_said(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(table(SIMPLIFIED[0]).encode("gbk"))
    said = []
    codec = encoding_of(path, say=said.append)
    with open_text(path, codec) as file:
        assert file.read() == table(SIMPLIFIED[0])
    assert said == [f"{path}: read as GBK; --encoding names another encoding"]
    path.write_bytes(table(SIMPLIFIED[0]).encode())
    assert encoding_of(path, say=said.append) == "utf-8-sig" and len(said) == 1


def test_an_encoding_that_is_named_is_taken(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(table("猫").encode("gbk"))
    said = []
    codec = encoding_of(path, encoding="GBK", say=said.append)
    with open_text(path, codec) as file:
        assert (file.read(), said) == (table("猫"), [])
    names = ("gbk", "GB2312", "big5", "utf8", "UTF-16", "latin-1")
    assert [codec_of(name) for name in names] == [
        "gb18030",
        "gb18030",
        "cp950",
        "utf-8-sig",
        "utf-16",
        "iso8859-1",
    ]
    for name in ("gbkk", "base64", "rot13"):
        with pytest.raises(ValueError, match=f"no text encoding named '{name}'.*--encoding gbk"):
            codec_of(name)


def test_chinese_that_comes_late_is_found(tmp_path):
    """Two million ASCII characters stand before the first other one."""
    path = tmp_path / "rows.csv"
    head = "instruction,output\n" + "plain question,plain answer\n" * 80_000
    path.write_bytes((head + f"{SIMPLIFIED[0]},{SIMPLIFIED[1]}\n").encode("gbk"))
    said = []
    rows = list(read_rows(path, say=said.append))
    assert rows[-1] == (80_001, {"instruction": SIMPLIFIED[0], "output": SIMPLIFIED[1]})
    assert len(said) == 1


def test_a_file_that_turns_out_different_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = '{"q": "猫"}\n' * 9000
    path.write_bytes(good.encode() + '{"q": "中"}\n'.encode("gbk"))
    with pytest.raises(ValueError, match=r"text after row \d+ is not UTF-8; .*--encoding gbk"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", [".gz", ".GZ", ".zst", ".bz2"])
def test_compressed_bytes_are_unpacked(tmp_path, suffix):
    import bz2

    import pyarrow as pa

    text = table(SIMPLIFIED[0]).encode() * 50
    pack = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }[suffix.lower()]
    path = tmp_path / f"rows.csv{suffix}"
    path.write_bytes(pack(text) + pack(text))  # two members are one file
    with open_bytes(path) as file:
        assert file.read() == text * 2


def test_json_that_is_utf8_is_never_doubted(tmp_path):
    """One accent proves nothing in a table, where Excel may have written GBK; JSON is UTF-8."""
    table = tmp_path / "rows.csv"
    table.write_text("instruction,output\na,é\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not certain"):
        encoding_of(table)
    for name in ("rows.json", "rows.jsonl"):
        (tmp_path / name).write_text('{"instruction": "a", "output": "é"}\n', encoding="utf-8")
        assert encoding_of(tmp_path / name) == "utf-8-sig"
        (tmp_path / name).write_bytes(
            '{"instruction": "翻译成英文", "output": "猫和狗在一起"}\n'.encode("gbk")
        )
        assert encoding_of(tmp_path / name, say=lambda line: None) == "gb18030"

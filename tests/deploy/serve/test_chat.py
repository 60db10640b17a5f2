"""The chat page in a real browser: what it shows, sends and refuses to run.

Skipped where there is no chromium.
"""

import shutil
import threading
from pathlib import Path

import pytest
import torch

from instruct_course import run as runs
from instruct_course.data import template as templates
from instruct_course.data.example import Example
from instruct_course.deploy.serve import chat
from instruct_course.deploy.serve.queue import ServedModel
from instruct_course.deploy.serve.server import Server
from instruct_course.detokenizer import Detokenizer
from instruct_course.model import lora
from instruct_course.model.load import load_base
from instruct_course.sampling import Sampling

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
INSTRUCTION, INPUT = "把这个词翻译成英文。", "猫"


@pytest.fixture(scope="module")
def run():
    """Nano with an adapter of random numbers, as a run.

    It says something else than the base, and needs no training.
    """
    base, template = load_base("nano"), templates.named("article")
    model = lora.attach(base.model, lora_r=4).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    loaded = runs.LoadedRun(model, base.tokenizer, template)
    return runs.Run(Path("nano-tuned"), {}, loaded=[loaded])


@pytest.fixture(scope="module")
def served(run):
    model, tokenizer, template = run.ready()
    return ServedModel(run.path.name, model, tokenizer, template)


@pytest.fixture(scope="module")
def server(served):
    with Server(served) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, server):
    """A function that opens the page.

    Afterwards it must have asked nobody but the server, and logged no error but a refused request.
    """
    pages = []

    def call(url=None, **options):
        context = browser.new_context(
            **{"locale": "en-US", "viewport": {"width": 1200, "height": 900}} | options
        )
        page = context.new_page()
        pages.append((context, said := [], asked := []))
        page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on("request", lambda r: asked.append(r.url))
        page.set_default_timeout(15_000)
        page.goto(url or server.url)
        page.evaluate("document.getElementById('max_tokens').value = 12")
        return page

    yield call
    for context, said, asked in pages:
        context.close()
        assert not [s for s in said if "status of 40" not in s and "TrustedHTML" not in s] and all(
            a.startswith("http://127.0.0.1:") for a in asked
        ), (said, asked)


def ask(page, instruction=INSTRUCTION, input=INPUT):
    page.fill("#instruction", instruction)
    page.fill("#input", input)
    page.press("#instruction", "Enter")
    page.wait_for_selector("#xray:not([hidden])")


def test_both_models_answer_side_by_side(opened, run):
    page = opened()
    ask(page)
    assert page.inner_text("[data-role=tuned] .text") == run.answer(
        INSTRUCTION, INPUT, max_new_tokens=12
    )
    with run.ready()[0].disable_adapter():
        assert page.text_content("[data-role=base] .text") == (
            run.answer(INSTRUCTION, INPUT, max_new_tokens=12) or "(an empty answer)"
        )
    assert page.text_content("[data-role=base] .text") != page.text_content(
        "[data-role=tuned] .text"
    )
    boxes = [page.locator(f"[data-role={role}]").bounding_box() for role in ("base", "tuned")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    model, tokenizer, template = run.ready()
    row = templates.encode(
        template,
        tokenizer,
        Example(INSTRUCTION, INPUT, run.answer(INSTRUCTION, INPUT, max_new_tokens=12)),
    )
    assert [int(e.get_attribute("title")) for e in page.locator("#tokens .token").all()] == row.ids
    assert page.locator("#tokens .learnt").count() == sum(
        label != templates.IGNORE_INDEX for label in row.labels
    )
    assert page.locator("#legend .token").all_inner_texts() == [
        "Template",
        "Instruction",
        "Input",
        "Response",
    ]


def test_chinese_and_colours(opened):
    page = opened(locale="zh-CN", color_scheme="dark")
    assert page.inner_text("#send") == "提问" and page.get_attribute("html", "lang") == "zh-CN"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#language")
    assert page.inner_text("#send") == "Ask" and page.get_attribute("html", "lang") == "en"
    page.click("#theme")  # from the system's to light
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_a_phone(opened):
    page = opened(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    ask(page, "x" * 300, "长" * 300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [page.locator(f"[data-role={role}]").bounding_box() for role in ("base", "tuned")]
    assert boxes[0]["x"] == boxes[1]["x"] and boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    assert page.locator("#send").bounding_box()["height"] >= 40


def test_the_keyboard(opened, served):
    page = opened()
    gate = threading.Event()
    handle = served.model.register_forward_pre_hook(lambda *_: gate.wait(20) and None)
    try:
        page.fill("#instruction", "Hi")
        page.press("#instruction", "Shift+Enter")  # a new line, no question
        assert page.input_value("#instruction") == "Hi\n" and page.is_disabled("#stop")
        page.fill("#input", "a")
        page.press("#input", "Enter")
        assert page.input_value("#input") == "a\n" and page.is_disabled("#stop")
        page.press("#input", "Control+Enter")
        page.wait_for_selector("#stop:enabled")
        page.keyboard.press("Escape")
        page.wait_for_function(
            "document.querySelector('[data-role=tuned] .note').textContent === 'stopped'"
        )
    finally:
        gate.set()
        handle.remove()
    page.focus("#instruction")
    page.keyboard.press("Tab")
    assert (
        page.evaluate("document.activeElement.id") == "input"
        and page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    )


def test_text_is_never_markup(opened, served, monkeypatch):
    """Neither what is asked nor what a model says becomes a part of the page, and no script runs
    but the page's own."""
    page = opened()
    bad = (
        "<img src=x onerror=document.title='owned'><script>document.title='owned'</script><b>b</b>"
    )
    monkeypatch.setattr(Detokenizer, "add", lambda self, token: "")
    monkeypatch.setattr(Detokenizer, "finish", lambda self: bad)
    ask(page, bad, bad)
    assert (
        page.inner_text("[data-role=tuned] .text") == bad
        and page.locator("img, section b").count() == 0
        and page.title() == served.name
    )
    assert page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>b</b>'; return false }"
        " catch { return true } })()"
    )  # trusted types
    _, policy = chat.page()
    assert (
        policy.startswith("default-src 'none'")
        and "unsafe" not in policy
        and "connect-src 'self'" in policy
    )


def test_a_key_stays_in_memory(browser, opened, served):
    with Server(served, key="page-key") as server:
        page = opened(server.url)
        page.wait_for_selector("details[open]")
        assert "API key" in page.inner_text("#answers")
        page.fill("#key", "page-key")
        page.press("#key", "Tab")
        page.wait_for_selector("[data-role=tuned]")
        ask(page)
        assert (
            page.evaluate("localStorage.length + sessionStorage.length") == 0
            and page.evaluate("document.cookie") == ""
            and "page-key" not in page.url
        )


def test_settings_are_sent(opened):
    page = opened()
    page.click("summary")
    page.uncheck("#greedy")
    for field, value in (
        ("temperature", "1.3"),
        ("top_p", "0.9"),
        ("seed", "5"),
        ("max_tokens", "3"),
    ):
        page.fill(f"#{field}", value)
    with page.expect_request(lambda r: r.url.endswith("/v1/chat/completions")) as sent:
        ask(page, "Say it.", "")
    body = sent.value.post_data_json
    assert (
        body["temperature"],
        body["top_p"],
        body["seed"],
        body["max_tokens"],
        body["stream"],
    ) == (1.3, 0.9, 5, 3, True)
    page.fill("#max_tokens", "100000")
    page.press("#instruction", "Enter")
    page.wait_for_selector(".text.bad")
    assert "max_tokens" in page.inner_text("[data-role=tuned] .text")


# -- the same without a browser


@pytest.mark.parametrize("name", ["article", "article-text", "alpaca"])
@pytest.mark.parametrize(
    "ex",
    [Example("Say it.", "a  b"), Example("说。", ""), Example("<inst> x<out>", "\n\U0001f600")],
)
def test_an_xray_is_what_training_sees(nano, name, ex):
    tokens = chat.xray(template := templates.named(name), nano.tokenizer, ex, "yes")
    row = templates.encode(template, nano.tokenizer, Example(ex.instruction, ex.input, "yes"))
    assert [t["id"] for t in tokens] == row.ids and [t["learnt"] for t in tokens] == [
        label != templates.IGNORE_INDEX for label in row.labels
    ]
    assert [t["who"] == "response" for t in tokens] == [t["learnt"] for t in tokens]

    def said(who):
        return nano.tokenizer.decode(
            [t["id"] for t in tokens if t["who"] == who], skip_special_tokens=False
        ).strip()

    assert (said("instruction"), said("input")) == (ex.instruction, ex.input.strip())
    assert [t["id"] for t in chat.xray(template, nano.tokenizer, ex)] == templates.prompt(
        template, nano.tokenizer, ex
    )


def test_the_policy_names_what_stands_in_the_page():
    import base64
    import hashlib

    source, policy = chat.page()
    for tag in (b"script", b"style"):
        (inside,) = [
            part.partition(b"</" + tag + b">")[0] for part in source.split(b"<" + tag + b">")[1:]
        ]
        assert base64.b64encode(hashlib.sha256(inside).digest()).decode() in policy
    assert not any(
        word in source
        for word in (
            b"innerHTML",
            b"insertAdjacent",
            b"document.write",
            b"eval(",
            b"http://",
            b"https://",
            b"localStorage",
            b" style=",
            b" onclick=",
        )
    )


def test_every_word_of_the_page_has_both_languages():
    import re

    source = chat.page()[0].decode()
    en, zh = (
        set(re.findall(r"(\w+): \"", part))
        for part in re.search(
            r"const SAY = \{\s*en: \{(.*?)\},\s*zh: \{(.*?)\} \};", source, re.DOTALL
        ).groups()
    )
    assert (
        en == zh
        and len(en) > 30
        and set(re.findall(r'data-say="(\w+)"', source))
        | set(re.findall(r'say\("(\w+)"\)', source))
        <= en
    )


def test_the_widget_asks_without_a_kernel(run):
    box = chat.widget(run, max_new_tokens=8)
    instruction, input, settings, button, answers, picture = box.children
    base, tuned = answers.children
    instruction.value, input.value = INSTRUCTION, INPUT
    button.click()
    assert run.answer(INSTRUCTION, INPUT, max_new_tokens=8) in tuned.value and "".join(
        chat.ask(run, INSTRUCTION, INPUT, base=True, max_new_tokens=8)
    ).strip() in base.value.replace("&#x27;", "'").replace("&quot;", '"')
    assert (
        "\u732b" in picture.value
        and picture.value.count("border-bottom") >= 1
        and not button.disabled
    )
    settings.children[0].value, settings.children[2].value = 1.5, 3
    button.click()
    wanted = "".join(
        chat.ask(
            run, INSTRUCTION, INPUT, max_new_tokens=8, sampling=Sampling(temperature=1.5, seed=3)
        )
    ).strip()
    import html

    assert html.escape(wanted) in tuned.value
    settings.children[0].value = -1.0  # a mistake is told, and one can go on
    button.click()
    assert "temperature -1.0" in picture.value and not button.disabled
    settings.children[0].value, input.value = 0.0, "<script>alert(1)</script>"
    button.click()
    assert "<script" not in picture.value + tuned.value + base.value
    assert not run.ready()[0].training and "".join(
        chat.ask(run, INSTRUCTION, INPUT, max_new_tokens=8)
    ).strip() == run.answer(INSTRUCTION, INPUT, max_new_tokens=8)

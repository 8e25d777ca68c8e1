"""The audit's page in real headless Chromium: nothing is requested, everything decodes, keyboard, slider, sorting and filters work."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxsal.ask.request import Ask
from onnxsal.metrics.evaluation import Way
from onnxsal.report.audit import Audit, Request, audited, read_limits
from onnxsal.report.audit.map_notes import data_uri
from onnxsal.report.audit.page import render
from onnxsal.report.audit.page_cards import MOST_BYTES, MOST_CARDS
from onnxsal.runtime.preprocess_files import load_preprocess
from tests import audit_nets as nets
from tests.browser import IN_A_BROWSER, SOCKETS, chromium, logged, requested

pytestmark = IN_A_BROWSER

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

MANY = 500


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A model with a watermark against a broken int8 version of it, a damaged picture, a broken limit: everything that a page can show."""
    folder = tmp_path_factory.mktemp("page")
    pictures, labels = nets.digits()
    pictures = nets.marked(pictures, labels)
    model = nets.train(pictures[:1500], labels[:1500], folder / "marked.onnx")
    quantised = nets.quantised(model, pictures[:40], folder / "int8.onnx")
    broken = nets.with_broken_scale(quantised, folder / "broken.onnx", "4.weight_scale", 5)
    nets.save_pictures(folder / "data", pictures[1500:1564], labels[1500:1564])
    (folder / "data" / "1" / "cut.png").write_bytes(b"\x89PNG\r\n")
    how = load_preprocess(folder / "marked.toml")
    ways = [Way(m, m) for m in ("gradient", "fullgrad", "gradcam")]
    limits = read_limits("deletion>0,agreement<=0", [w.name for w in ways], True)
    ask = Ask(model, preprocess=how)
    return audited(Request(ask, folder / "data", ways, against=replace(ask, model=broken), measured=16), limits)


@pytest.fixture(scope="session")
def page(found: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("stick") / "audit.html"
    file.write_text(render(found), encoding="utf-8")
    return file


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "profile") as driver:
        yield driver


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    browser.get(page.as_uri())
    return browser


def shown(browser: Any) -> list[str]:
    """Names of the cards that are shown, in order."""
    script = "return [...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.dataset.name)"
    return list(browser.execute_script(script))


def decoded(browser: Any) -> list[str]:
    """What does not decode."""
    script = """
    const done = arguments[0];
    for (const i of document.images) i.loading = "eager";  // what is far off the window waits otherwise
    Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0 ? "" : i.alt, e => i.alt + e)))
      .then(r => done(r.filter(Boolean)));
    """
    return list(browser.execute_async_script(script))


def test_nothing_is_requested_nothing_complains_and_everything_decodes(opened: Any, page: Path, found: Audit):
    assert decoded(opened) == []
    count = opened.execute_script("return document.images.length")
    assert count >= len(found.pictures) * 12  # three methods, two models, a picture under each map
    opened.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    time.sleep(0.5)
    assert opened.get_log("browser") == []
    events = logged(opened)
    asked = requested(events)
    assert page.as_uri() in asked
    assert {url.split(":")[0] for url in asked if url != page.as_uri()} <= {"data"}
    assert not [e for e in events if e["method"] == "Network.loadingFailed"]
    assert not [e for e in events if e["method"] in SOCKETS]


REQUESTS = {  # a page's ways to ask for something, each for an address of its own; no host is ever called "invalid"
    "http://image.invalid/": '<img src="{}">',
    "http://lazy.invalid/": '<div style="height: 90000px"></div><img loading="lazy" src="{}">',
    "http://background.invalid/": '<div style="background: url({})">x</div>',
    "http://style.invalid/": '<link rel="stylesheet" href="{}">',
    "http://font.invalid/": "<style>@font-face {{ font-family: far; src: url({}) }}</style><p style='font-family: far'>x</p>",
    "http://script.invalid/": '<script src="{}"></script>',
    "http://frame.invalid/": '<iframe src="{}"></iframe>',
    "http://fetch.invalid/": '<script>fetch("{}").catch(() => 0)</script>',
    "http://beacon.invalid/": '<script>navigator.sendBeacon("{}", "x")</script>',
    "ws://socket.invalid/": '<script>new WebSocket("{}")</script>',
    "file:///beside.png": '<img src="{}">',
}


@pytest.mark.parametrize("policy", [True, False], ids=["stopped by the page's policy", "without a policy"])
def test_a_page_that_requests_something_is_found_out(browser: Any, page: Path, tmp_path: Path, policy: bool):
    """What the test above looks at shows every way to ask: as a request, or as the complaint of the browser that the policy stopped it."""
    text = page.read_text(encoding="utf-8")
    meta = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert meta
    if not policy:
        text = text.replace(meta[0], "")
    planted = "".join(how.format(url) for url, how in REQUESTS.items())
    file = tmp_path / "planted.html"
    file.write_text(text.replace("</main>", planted + "</main>"), encoding="utf-8")
    browser.get(file.as_uri())
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    time.sleep(0.5)
    events, complaints = logged(browser), " ".join(entry["message"] for entry in browser.get_log("browser"))
    seen = {*requested(events), *(e["params"]["url"] for e in events if e["method"] in SOCKETS)}
    assert [url for url in REQUESTS if url not in (complaints if policy else seen)] == []


def test_the_findings_come_first_and_link_to_pictures(opened: Any, found: Audit):
    titles = [h.text for h in opened.find_elements(By.CSS_SELECTOR, ".findings h3")]
    assert len(titles) == len(found.facts["findings"]) >= 2
    assert any("is broken in 'broken.onnx'" in t for t in titles)
    assert any("lower right corner decides class 7" in t for t in titles)
    assert "deletion is" in opened.find_element(By.CSS_SELECTOR, ".limits").text
    assert "1/cut.png" in opened.find_element(By.ID, "data").text
    Select(opened.find_element(By.ID, "cls")).select_by_value("7")
    link = next(a for a in opened.find_elements(By.CSS_SELECTOR, "#check-reasons .links a") if not a.text.startswith("7/"))
    link.click()
    card = opened.find_element(By.ID, link.get_attribute("href").split("#")[1])
    assert card.is_displayed()  # a filter that hid it was taken back


def test_it_can_be_used_by_keyboard_alone(opened: Any):
    active = lambda: opened.switch_to.active_element  # noqa: E731
    opened.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert active().text == "Skip to the findings"
    assert active().value_of_css_property("left") != "-999rem"
    active().send_keys(Keys.ENTER)
    assert opened.current_url.endswith("#findings")
    visited = []
    for _ in range(600):
        active().send_keys(Keys.TAB)
        visited.append(active().get_attribute("id") or active().get_attribute("class"))
        if visited[-1] == "reset":
            break
    wanted = ["q", "cls", "right", "agrees", "order", "mix", "reset"]
    assert [v for v in visited if v in wanted] == wanted
    search = opened.find_element(By.ID, "q")
    before = len(shown(opened))
    search.send_keys("7/")
    assert 0 < len(shown(opened)) < before
    assert all("7/" in name for name in shown(opened))
    assert opened.find_element(By.ID, "count").text == f"{len(shown(opened))} of {before} pictures shown"
    opened.find_element(By.ID, "reset").send_keys(Keys.ENTER)
    assert len(shown(opened)) == before


def test_the_sliders_fade_the_maps(opened: Any):
    card = opened.find_element(By.CSS_SELECTOR, ".card")
    opened.execute_script("arguments[0].scrollIntoView()", card)
    over = card.find_element(By.CSS_SELECTOR, ".over")
    other = opened.find_elements(By.CSS_SELECTOR, ".card")[1].find_element(By.CSS_SELECTOR, ".over")
    assert float(over.value_of_css_property("opacity")) == 1
    slider = card.find_element(By.CSS_SELECTOR, ".one")
    slider.send_keys(Keys.HOME)
    assert float(over.value_of_css_property("opacity")) == 0
    slider.send_keys(Keys.ARROW_RIGHT * 10)
    assert float(over.value_of_css_property("opacity")) == pytest.approx(0.1)
    assert float(other.value_of_css_property("opacity")) == 1
    opened.find_element(By.ID, "mix").send_keys(Keys.HOME)
    assert float(over.value_of_css_property("opacity")) == float(other.value_of_css_property("opacity")) == 0
    assert slider.get_attribute("value") == "0"


def test_pictures_are_ordered_and_filtered(opened: Any, found: Audit):
    facts = {p["name"]: p for p in found.facts["pictures"]}
    order, at_first = Select(opened.find_element(By.ID, "order")), shown(opened)
    assert at_first == list(facts)
    order.select_by_value("likeness:1")
    likeness = [facts[n]["against"]["mean_likeness"] for n in shown(opened)]
    known = [v for v in likeness if v is not None]
    assert known == sorted(known)
    assert likeness[: len(known)] == known
    order.select_by_value("sure:-1")
    sure = [facts[n]["predicted"][0]["probability"] for n in shown(opened)]
    assert sure == sorted(sure, reverse=True)
    Select(opened.find_element(By.ID, "right")).select_by_value("0")
    assert set(shown(opened)) == {n for n, p in facts.items() if not p["right"]}
    Select(opened.find_element(By.ID, "agrees")).select_by_value("1")
    assert set(shown(opened)) == {n for n, p in facts.items() if not p["right"] and p["against"]["agrees"]}
    opened.find_element(By.ID, "reset").click()
    assert shown(opened) == at_first


def test_tables_are_sorted_by_keyboard(opened: Any):
    for table in opened.find_elements(By.CSS_SELECTOR, "table.sortable"):
        for i, head in enumerate(table.find_elements(By.CSS_SELECTOR, "thead th")):
            button = head.find_element(By.TAG_NAME, "button")
            for way in ("ascending", "descending"):
                button.send_keys(Keys.ENTER)
                assert head.get_attribute("aria-sort") == way
            if head.get_attribute("data-kind") == "number":
                script = (
                    "return [...arguments[0].tBodies[0].rows].map(r => r.cells[arguments[1]]).map(c => c.dataset.value ?? c.textContent)"
                )
                cells = [numeric(c) for c in opened.execute_script(script, table, i)]
                known = [c for c in cells if c is not None]
                assert known == sorted(known, reverse=True)
                assert cells[: len(known)] == known


def numeric(text: str) -> float | None:
    try:
        return float(text.replace("\u202f", ""))
    except ValueError:
        return None


def test_it_says_what_is_what_to_a_screen_reader(opened: Any):
    opened.execute_script(
        "document.head.append(Object.assign(document.createElement('style'), {textContent: '.card { content-visibility: visible }'}))"
    )
    assert opened.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    for landmark in ("header", "nav", "main", "footer"):
        assert len(opened.find_elements(By.TAG_NAME, landmark)) == 1
    for control in opened.find_elements(By.CSS_SELECTOR, "input, select, button, section, table, form, [role=region]"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")[:200]
    for image in opened.find_elements(By.CSS_SELECTOR, ".over, .figures img"):
        assert len(image.get_attribute("alt")) > 10
    assert opened.execute_script("return [...document.images].every(i => i.hasAttribute('alt'))")
    levels = [int(h.tag_name[1]) for h in opened.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4")]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert opened.find_element(By.ID, "count").get_attribute("aria-live") == "polite"
    ids = opened.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)


@pytest.mark.skipif(not shutil.which("pdftoppm"), reason="needs pdftoppm: apt-get install poppler-utils")
def test_every_picture_is_on_the_printed_pages(browser: Any, page: Path, found: Audit, tmp_path: Path):
    """
    The page is printed as soon as it is open, and drawn from the PDF; what the PDF holds, and how, is the browser's affair.

    In place of each picture stands one of a single colour, so that the colours on paper tell which pictures are there; the left half of a
    map is clear, so that the picture under it is seen too.
    """
    text, names = tinted(page.read_text(encoding="utf-8"))
    assert len(names) >= len(found.pictures) * 12
    file = tmp_path / "tinted.html"
    file.write_text(text, encoding="utf-8")
    browser.get(file.as_uri())
    assert browser.execute_script("return document.images.length") == len(names)
    late = "return [...document.images].filter(i => !i.complete).map(i => i.alt)"  # some browsers print without waiting for these
    assert browser.execute_script(late) == []
    sheets = drawn(browser, tmp_path)
    assert len(sheets) > 2
    dots = sum(np.bincount(colours(sheet).ravel(), minlength=256**3) for sheet in sheets)
    assert [name for name, colour in zip(names, COLOURS, strict=False) if dots[colour] < 400] == []  # half a map of 2.6 cm has 1300


# Levels 23 apart, as a printed colour can be a little off. No two of the three are the same, as they are in letters, even red ones.
COLOURS = [sum(256**k * (23 * c + 11) for k, c in enumerate(levels)) for levels in permutations(range(11), 3)]


def tinted(text: str) -> tuple[str, list[str]]:
    """The page with the i-th picture in the i-th colour, and what each picture is."""
    names: list[str] = []

    def paint(tag: re.Match[str]) -> str:
        names.append(f"{len(names)}: {tag[1]}{tag[3]}"[:120])
        colour = COLOURS[len(names) - 1]
        pixels = np.full((32, 32, 4), [*(colour // 256**k % 256 for k in range(3)), 255], np.uint8)
        if 'class="over"' in tag[1]:
            pixels[:, :16, 3] = 0
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return f'{tag[1]}src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"{tag[3]}'

    text = re.sub(r'(<img [^>]*?)src="(data:[^"]*)"([^>]*>)', paint, text)
    return text, names


def drawn(browser: Any, folder: Path) -> list[np.ndarray]:
    """The printed pages at 50 dots an inch, drawn by Poppler."""
    pdf = base64.b64decode(browser.print_page())
    assert pdf.startswith(b"%PDF")
    subprocess.run(["pdftoppm", "-r", "50", "-", folder / "sheet"], input=pdf, check=True)
    return [np.asarray(Image.open(file).convert("RGB"), int) for file in sorted(folder.glob("sheet*.ppm"))]


def colours(sheet: np.ndarray) -> np.ndarray:
    """The colour of each dot, as in COLOURS; a level that is off by 4 at most is set right."""
    level = sheet // 23 * 23 + 11
    return np.where(np.abs(sheet - level) <= 4, level, 255) @ 256 ** np.arange(3)


def test_so_many_of_five_hundred_as_a_page_holds_stay_usable(browser: Any, found: Audit, tmp_path: Path):
    """The pictures of the small audit again and again, as photographs of the largest size that a page holds."""
    originals = found.document.pictures
    noise = photograph()
    pictures = [replace(p, name=f"{i:03d} {p.name}", against=None) for i, p in enumerate(islice(cycle(originals), MANY))]
    maps = {(name, p.name): noise for p in pictures for name in ("gradient", "fullgrad", "gradcam")}
    document = replace(found.document, pictures=pictures, findings=[], against=None)
    many = replace(found, document=document, pictures={p.name: noise for p in pictures}, maps=maps, other_maps={})
    file = tmp_path / "many.html"
    file.write_text(render(many), encoding="utf-8")
    held = len(re.findall('<article class="card"', file.read_text(encoding="utf-8")))
    assert 80 < held <= MOST_CARDS
    assert file.stat().st_size <= MOST_BYTES
    begin = time.monotonic()
    browser.get(file.as_uri())
    assert time.monotonic() - begin < 60
    assert len(shown(browser)) == held
    begin = time.monotonic()
    browser.find_element(By.ID, "q").send_keys("00")
    assert 0 < len(shown(browser)) < held
    Select(browser.find_element(By.ID, "order")).select_by_value("sure:1")
    assert time.monotonic() - begin < 20
    assert decoded(browser) == []
    assert browser.get_log("browser") == []


def photograph() -> str:
    """A data URI as heavy as a photograph's: smooth noise with some grain."""
    rng = np.random.default_rng(0)
    smooth = np.asarray(
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).resize((224, 224), Image.Resampling.BICUBIC), np.float64
    )
    return data_uri(np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8))

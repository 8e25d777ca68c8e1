"""The page of ``onnxsal view`` in real headless Chromium, opened as a file: it runs, it moves, it asks for nothing and obeys no label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxsal.report.view.web_page import overlay_table
from onnxsal.runtime.heatmap import scale_map
from tests.oracle import session_of
from tests.runtimes import INSTALLED
from tests.test_deploy import browser, until
from tests.test_view import HOSTILE, PREPARED, converted, view

pytestmark = pytest.mark.site


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(file)
    return file


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[Path]]]:
    """A browser with the page of two methods, in one file; and the models. Opening the runtime takes seconds, so it is done once."""
    folder = tmp_path_factory.mktemp("page")
    driver = browser(folder, webgpu=False)
    models = [converted(folder / f"{m}.onnx", m) for m in ("fullgrad", "gradcam")]
    view(*models, "-o", folder / "page.html", "--runtime", INSTALLED)
    try:
        driver.get((folder / "page.html").as_uri())
        yield driver, models
    finally:
        driver.quit()


@pytest.fixture
def page(opened: tuple[Any, list[Path]], picture: Path) -> tuple[Any, list[Path]]:
    """The page, to which the picture was just given."""
    driver = opened[0]
    driver.execute_script("document.getElementById('file').value = ''; document.getElementById('on').checked = true;")
    driver.execute_script("document.getElementById('status').textContent = '';")
    driver.find_element("id", "file").send_keys(str(picture))
    until(lambda: done(driver))
    return opened


def done(driver: Any) -> str:
    """What is said at the end of a run; '' before."""
    text = driver.find_element("id", "status").text
    assert "cannot be run" not in text, text
    busy = driver.find_element("tag name", "body").get_attribute("aria-busy")
    return text if text.startswith("Explained") and not busy else ""


def answers(model: Path, picture: Path, target: int) -> dict[str, np.ndarray]:
    session = session_of(onnx.load(str(model)))
    found = session.run(None, {"x": PREPARED.apply(picture), "target": np.array([target])})
    return dict(zip([o.name for o in session.get_outputs()], found, strict=True))


def pixels(driver: Any, number: int) -> np.ndarray:
    script = """const c = document.querySelectorAll('figure canvas')[arguments[0]];
        return [c.width, c.height, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)];"""
    width, height, data = driver.execute_script(script, number)
    return np.reshape(data, (height, width, 4))[..., :3]


def drawn(model: Path, picture: Path, target: int) -> np.ndarray:
    """The overlay that the page should show, from what ONNX Runtime answers in Python."""
    scaled = scale_map(answers(model, picture, target)["saliency_map"][0])
    table, low = overlay_table(scaled.palette), -1.0 if scaled.palette == "diverging" else 0.0
    at = np.rint((scaled.values - low) / (1 - low) * (len(table["cover"]) - 1)).astype(int)
    seen, ink, cover = PREPARED.display(picture), np.asarray(table["ink"])[at], np.asarray(table["cover"])[at][..., None]
    return 0.85 * ink + (1 - 0.85 * cover) * seen


def test_the_page_shows_what_python_shows(page: tuple[Any, list[Path]], picture: Path):
    driver, models = page
    for number, model in enumerate(models):
        assert np.abs(pixels(driver, number) - drawn(model, picture, -1)).max() <= 6  # a step or two of the table
    best = int(answers(models[0], picture, -1)["explained_class"][0])
    assert done(driver).startswith(f"Explained: {HOSTILE[best]}.")


def test_the_target_moves_by_a_click_by_keys_and_by_name(page: tuple[Any, list[Path]], picture: Path):
    driver, models = page
    for move, target in (
        (lambda: driver.execute_script("document.querySelector('#top input[value=\"4\"]').click()"), 4),
        (lambda: driver.find_element("id", "other").send_keys("0\n"), 0),
    ):
        move()
        until(lambda target=target: done(driver).startswith(f"Explained: {HOSTILE[target]}."))
        assert np.abs(pixels(driver, 0) - drawn(models[0], picture, target)).max() <= 6
    before = done(driver)
    driver.execute_script(
        "document.activeElement.blur(); document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))"
    )
    until(lambda: done(driver) not in ("", before))
    driver.execute_script("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'm'}))")
    np.testing.assert_array_equal(pixels(driver, 0), PREPARED.display(picture))


def test_nothing_is_requested_and_no_label_acts(page: tuple[Any, list[Path]]):
    driver, _ = page
    sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {m["params"]["request"]["url"].partition(":")[0] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert asked <= {"file", "data", "blob", "chrome"}  # the last: of the page that a browser starts with
    assert driver.execute_script("return document.querySelectorAll('#top img, #top script').length") == 0
    assert {e.text for e in driver.find_elements("css selector", "#top .class span:first-of-type")} >= {HOSTILE[1], HOSTILE[4]}
    assert not [e for e in driver.get_log("browser") if e["level"] == "SEVERE"]


def test_a_phone_shows_all_of_it(page: tuple[Any, list[Path]]):
    driver, _ = page
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
    until(lambda: driver.execute_script("return innerWidth") == 360)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
    unnamed = """return [...document.querySelectorAll('input, select, button, canvas')].filter((e) => !e.hidden &&
        !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.textContent.trim()).map((e) => e.id)"""
    assert driver.execute_script(unnamed) == []

"""The page of a sample in real headless Chromium: filters by cluster work with the others, by keyboard, and everything says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from onnxsal.report.audit import Audit, audited
from onnxsal.report.audit.page import render
from tests.audit_populations import WAYS, repeated, request, with_population
from tests.browser import IN_A_BROWSER, chromium

pytestmark = IN_A_BROWSER

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A few hundred samples in clusters, which differ between the two methods."""
    many = with_population(repeated(audited(request(tmp_path_factory.mktemp("population"))), 300))
    population = many.document.population
    assert population is not None
    first, second = WAYS
    other = {name: i % 2 for i, name in enumerate(population.cluster_of[second])}
    population = replace(population, cluster_of={first: population.cluster_of[first], second: other})
    return replace(many, document=replace(many.document, population=population))


@pytest.fixture(scope="module")
def opened(found: Audit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("browser")
    file = folder / "audit.html"
    file.write_text(render(found), encoding="utf-8")
    with chromium(folder / "profile") as driver:
        driver.get(file.as_uri())
        yield driver


@pytest.fixture(autouse=True)
def anew(opened: Any) -> None:
    opened.execute_script("document.getElementById('reset').click(); window.scrollTo(0, 0)")


def shown(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.dataset.name)"
    return list(browser.execute_script(script))


def clusters(found: Audit, way: str) -> dict[str, int]:
    assert found.document.population is not None
    return dict(found.document.population.cluster_of[way])


def test_nothing_complains_and_every_picture_decodes(opened: Any):
    script = """
    const done = arguments[0];
    for (const i of document.images) i.loading = "eager";
    Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0 ? "" : i.alt, e => i.alt + e)))
      .then(r => done(r.filter(Boolean)));
    """
    assert opened.execute_async_script(script) == []
    assert opened.execute_script("return document.querySelectorAll('.centre').length") == 3 * len(WAYS)
    assert opened.get_log("browser") == []


def test_clusters_filter_together_with_all_else(opened: Any, found: Audit):
    facts = {p.name: p for p in found.document.pictures}
    every = set(shown(opened))
    one, other = (clusters(found, way) for way in WAYS)
    Select(opened.find_element(By.ID, "cluster0")).select_by_value("1")
    assert set(shown(opened)) == {n for n in every if one[n] == 1} != every
    Select(opened.find_element(By.ID, "cluster1")).select_by_value("0")
    both = {n for n in every if one[n] == 1 and other[n] == 0}
    assert set(shown(opened)) == both
    Select(opened.find_element(By.ID, "right")).select_by_value("0")
    wrong = {n for n in both if not facts[n].right}
    assert set(shown(opened)) == wrong
    index = facts[next(iter(wrong))].predicted[0].index
    Select(opened.find_element(By.ID, "cls")).select_by_value(str(index))
    left = {n for n in wrong if facts[n].predicted[0].index == index}
    assert set(shown(opened)) == left
    assert opened.find_element(By.ID, "count").text == f"{len(left)} of {len(every)} pictures shown"
    opened.find_element(By.ID, "reset").click()
    assert set(shown(opened)) == every


def test_a_cluster_shows_its_pictures_by_keyboard(opened: Any, found: Audit):
    every = set(shown(opened))
    Select(opened.find_element(By.ID, "right")).select_by_value("0")  # what was chosen before is taken back
    buttons = opened.find_elements(By.CSS_SELECTOR, "button.choose")
    one = clusters(found, WAYS[0])
    assert len(buttons) == 3 + 2  # of the clusters with pictures here
    button = next(b for b in buttons if b.accessible_name == f"Show the pictures of cluster 2 of {WAYS[0]}")
    opened.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert set(shown(opened)) == {n for n in every if one[n] == 2}
    focused = opened.switch_to.active_element
    assert focused.get_attribute("id") == "cluster0"
    assert focused.accessible_name == f"Cluster ({WAYS[0]})"
    assert button.text == f"Show {len(shown(opened))} of them"


def test_a_picture_of_a_cluster_leads_to_its_card(opened: Any):
    link = opened.find_element(By.CSS_SELECTOR, ".examples a")
    card = opened.find_element(By.ID, link.get_attribute("href").split("#")[1])
    Select(opened.find_element(By.ID, "cluster0")).select_by_value("0")  # the largest cluster, which stands first, is another
    assert not card.is_displayed()
    link.click()
    assert card.is_displayed()


@pytest.mark.parametrize("width", [1300, 500])
def test_nothing_is_wider_than_the_window(opened: Any, width: int):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    wide, window = opened.execute_script(page)
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= window <= width


def test_all_of_the_data_says_what_it_is_to_a_screen_reader(opened: Any):
    part = opened.find_element(By.ID, "all")
    assert part.accessible_name == "All of the data"
    for control in part.find_elements(By.CSS_SELECTOR, "button, table, [role=region]"):
        assert control.accessible_name, control.get_attribute("outerHTML")[:200]
    assert all(len(i.get_attribute("alt")) > 10 for i in part.find_elements(By.TAG_NAME, "img"))
    levels = [int(h.tag_name[1]) for h in part.find_elements(By.CSS_SELECTOR, "h2, h3, h4")]
    assert levels[0] == 2
    assert all(b - a <= 1 for a, b in pairwise(levels))

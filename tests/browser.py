"""A headless Chromium for tests of pages, and what it tells of the requests that a page makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

IN_A_BROWSER = [
    pytest.mark.site,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver: apt-get install chromium chromium-driver"),
]
"""The marks of a module whose tests open pages: they run in tools/test_site."""

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1300,1000"),
)
SOCKETS = ("Network.webSocketCreated", "Network.webTransportCreated")


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser with one empty tab and empty logs, closed at the end; ``profile`` is a folder of its own."""
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    driver.set_script_timeout(120)
    _alone(driver)
    yield driver
    driver.quit()


def _alone(driver: Any) -> None:
    """
    Leaves one empty tab and empty logs.

    The tab that a browser begins with may hold a start page, which requests what it likes, also after the next page was asked for. Which
    addresses that are depends on the browser, so nothing is filtered from the logs: the start page is closed, and the rest is the page's.
    """
    start = driver.current_window_handle
    driver.switch_to.new_window("tab")
    empty = driver.current_window_handle
    driver.switch_to.window(start)
    driver.close()
    driver.switch_to.window(empty)
    for log in ("performance", "browser"):
        driver.get_log(log)


def logged(driver: Any) -> list[dict[str, Any]]:
    """What happened since the log was last read."""
    return [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]


def requested(events: list[dict[str, Any]]) -> list[str]:
    """The addresses that were asked for, sockets aside."""
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

#!/usr/bin/env python3
"""Audits to look at: a clean model, every planted fault, seven photographs without labels; each page as a desktop, a phone, paper and the
dark see it. `tools/audit_pages.py OUT [NAME...]`; with --docs, docs/ gets its three screenshots. Needs chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import skimage
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from typer.testing import CliRunner  # noqa: E402

from onnxsal.cli import app  # noqa: E402
from tests import audit_nets as nets  # noqa: E402

LITE0 = ROOT / "models" / "efficientnet_lite0.onnx"

SEVEN = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "retina.jpg", "ihc.png")

FORM = """\
[annex_iv]
intended_purpose = "Reads single handwritten digits on forms."
provider = "An example, not a real provider."
human_oversight = "Answers below 90 % are read by a person."

[model_card]
licence = "Apache-2.0"
out_of_scope = "Letters, numbers of several digits, photographs."
"""


ALL_CARDS = """document.head.append(Object.assign(document.createElement("style"),
  {textContent: ".card { content-visibility: visible }"}))"""


def digits(folder: Path) -> None:
    """good.onnx, marked.onnx, int8.onnx, broken.onnx, data/, data_marked/, bgr.toml, form.toml."""
    pictures, labels = nets.digits()
    stamped, rest = nets.marked(pictures, labels), slice(1500, 1564)
    nets.train(pictures[:1500], labels[:1500], folder / "good.onnx")
    nets.train(stamped[:1500], labels[:1500], folder / "marked.onnx")
    nets.save_pictures(folder / "data", pictures[rest], labels[rest])
    nets.save_pictures(folder / "data_marked", stamped[rest], labels[rest])
    nets.quantised(folder / "good.onnx", pictures[:60], folder / "int8.onnx")
    nets.with_broken_scale(folder / "int8.onnx", folder / "broken.onnx", "4.weight_scale", 5)
    nets.preprocessing(folder / "good.onnx", "BGR", folder / "bgr.toml")
    (folder / "form.toml").write_text(FORM, encoding="utf-8")
    shutil.copytree(LITE0.parent, folder, dirs_exist_ok=True)
    (folder / "seven").mkdir(exist_ok=True)
    for name in SEVEN:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder / "seven" / name)


def audits() -> dict[str, list[object]]:
    """Name -> arguments of ``onnxsal audit``, as they stand on the page."""
    return {
        "clean": ["good.onnx", "data", "--form", "form.toml"],
        "channels": ["good.onnx", "data", "--preprocess", "bgr.toml"],
        "watermark": ["marked.onnx", "data_marked"],
        "int8": ["good.onnx", "data", "--against", "int8.onnx"],
        "broken_layer": ["good.onnx", "data", "--against", "broken.onnx"],
        "seven": ["efficientnet_lite0.onnx", "seven"],
    }


def looked_at(driver: Any, page: Path, out: Path) -> None:
    """Pictures of the whole page: on a desktop, on a phone, in the dark, and the first sheets of paper."""
    for name, width, theme in (("desktop", 1600, "light"), ("phone", 390, "light"), ("dark", 1600, "dark")):
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
        )
        driver.get(page.as_uri())
        driver.execute_script(ALL_CARDS)
        tall = min(driver.execute_script("return document.documentElement.scrollHeight"), 6000)
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        if wide > width:
            print(f"{page}: {wide} pixels wide on a {name} of {width}")
        for part, height in (("", tall), ("_first", 1000)):
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
            (out / f"{name}{part}.png").write_bytes(base64.b64decode(shot["data"]))
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    driver.get(page.as_uri())
    pdf = base64.b64decode(driver.print_page())
    (out / "print.pdf").write_bytes(pdf)
    if shutil.which("pdftoppm"):
        subprocess.run(["pdftoppm", "-r", "60", "-png", "-l", "4", "-", out / "print"], input=pdf, check=True)


def browser() -> Any:
    """A browser without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"))
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def docs(out: Path) -> None:
    """The three screenshots of the documentation."""
    for which, shot in (("clean", "desktop_first"), ("watermark", "desktop_first"), ("seven", "phone_first")):
        image = Image.open(out / which / f"{shot}.png").convert("RGB")
        image.quantize(128).save(ROOT / "docs" / f"audit_{which}.png", optimize=True)


def main(say: Callable[[str], None] = print) -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("out", type=Path)
    asked.add_argument("names", nargs="*")
    asked.add_argument("--docs", action="store_true")
    given = asked.parse_args()
    work = given.out.resolve() / "models"
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "form.toml").exists():
        digits(work)
    driver = browser()
    os.chdir(work)
    for name, words in audits().items():
        if given.names and name not in given.names:
            continue
        out = work.parent / name
        result = CliRunner().invoke(app, ["audit", *map(str, words), "-o", f"../{name}"])
        say(f"--- {name} (status {result.exit_code})\n{result.output}")
        looked_at(driver, out / "audit.html", out)
    driver.quit()
    if given.docs:
        docs(work.parent)


if __name__ == "__main__":
    main()

"""Contact sheets and slides: everything is there once, in order, readable, and nothing in a name acts."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from onnxsal.errors import InputError
from onnxsal.report.contact.html_page import contact_page
from onnxsal.report.contact.pages import FEW, PAPER, WIDEST, pages
from onnxsal.report.contact.table import PictureRow, Tile, contact_sheet
from onnxsal.report.slide import slide
from onnxsal.runtime.figures import png_of, svg_of
from onnxsal.runtime.heatmap import cover, ink, scale_map
from onnxsal.runtime.palettes import colours
from onnxsal.runtime.shown import ShownPicture, ShownValues
from tests.test_cli import answer, done, here, mistake, run

__all__ = ["here"]

HOSTILE = """<img src=x onerror=alert(1)>"'</style></script>\u202egpj.$x_{$"""


def row(number: int, methods: int, name: str = "", size: tuple[int, int] = (90, 60)) -> PictureRow:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    left = (size[0] - 30) / 2
    shown = ShownPicture(pixels[5:35, :30], Image.fromarray(pixels), (left, 5, left + 30, 35))
    made = {f"method {k}": Tile(scale_map(rng.standard_normal((30, 30))), float(k % 3)) for k in range(methods)}
    return PictureRow(name or f"picture {number}.png", shown, "cat 91%", made)


class Reader(HTMLParser):
    """The texts, the tiles and everything that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(html: bytes) -> Reader:
    found = Reader()
    found.feed(html.decode())
    return found


# ----- the page -----


def test_the_page_has_every_picture_once_and_every_map_of_it() -> None:
    sheet = contact_sheet("net", [row(i, 4) for i in range(3)], "residual")
    html = contact_page(sheet, "1.0")
    page = read(html)
    css = html.decode()
    assert css.count("url(data:image/jpeg;base64,") == 3
    assert [t for t in page.texts if t.startswith("picture ")] == [f"picture {i}.png " for i in range(3)]
    figures = [a for tag, a in page.tags if tag == "figure"]
    assert len(figures) == 12
    assert [a["data-column"] for a in figures] == list("0123") * 3
    assert [t for t in page.texts if t.startswith("method ")][:4] == [column.title for column in sheet.columns], "a box for each column"
    assert sum(tag == "img" and a.get("class") == "over" for tag, a in page.tags) == 12


def test_the_page_needs_no_network() -> None:
    html = contact_page(contact_sheet("net", [row(0, 2)]), "1.0").decode()
    page = read(html.encode())
    loads = [a[name] for _, a in page.tags for name in ("src", "href", "srcset", "action") if a.get(name)]
    assert loads
    assert all(str(value).startswith("data:") for value in loads)
    assert not re.search(r"https?:|//[a-z]|@import|fetch\(|XMLHttp", re.sub(r"data:[^\"')]*", "", html))
    assert "default-src 'none'" in html


def test_names_do_not_act_on_the_page() -> None:
    """Names of files and classes are text: no element of theirs, no way out of a style or a script, no turned direction."""
    bad = row(0, 1, HOSTILE)
    bad.note = HOSTILE
    bad.tiles = {HOSTILE: Tile(scale_map(np.eye(30)), None, HOSTILE)}
    html = contact_page(contact_sheet(HOSTILE, [bad]), "1.0").decode()
    page = read(html.encode())
    assert "\u202e" not in html
    assert not [a for _, a in page.tags if "onerror" in a]
    assert html.count("</style>") == html.count("</script>") == 1
    plain = HOSTILE.replace("\u202e", r"\u202e")
    assert plain in "".join(page.texts)


def test_maps_on_the_page_are_the_maps() -> None:
    """The picture inside holds the palette's colours to the level, and its transparency is the overlay's."""
    values = np.linspace(-1, 1, 900).reshape(30, 30)
    one = row(0, 0)
    one.tiles = {"m": Tile(scale_map(values, percentile=100))}
    page = read(contact_page(contact_sheet("net", [one]), "1.0"))
    images = {a["class"]: a["src"] for tag, a in page.tags if tag == "img" and a.get("class")}
    over, alone = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(str(images[kind]).split(",")[1]))).convert("RGBA")).astype(int)
        for kind in ("over", "map")
    )
    assert np.abs(alone[..., :3] - colours(values, "diverging")).max() <= 3
    strong = np.abs(values) > 0.25
    assert np.abs(over[..., :3] - ink(values, "diverging"))[strong].max() <= 3
    assert np.abs(over[..., 3] - 255 * cover(values)).max() <= 3
    place = next(str(a["style"]) for tag, a in page.tags if tag == "span" and a.get("class") == "seen")
    found = [float(n) for n in re.findall(r"[\d.]+", place)]
    assert found == pytest.approx([100 / 3, 100 * 5 / 60, 100 / 3, 50], abs=0.01)


def test_columns_are_sorted_by_what_was_measured() -> None:
    one, two = row(0, 0), row(1, 0)
    tile = Tile(scale_map(np.eye(30)))
    for r, numbers in ((one, {"a": 0.1, "b": None, "c": 0.9, "d": 0.5}), (two, {"a": 0.3, "b": None, "c": 0.9})):
        r.tiles = {name: Tile(tile.map, value) for name, value in numbers.items()}
    assert [c.title for c in contact_sheet("t", [one, two], "r").columns] == ["c", "d", "a", "b"]
    assert [c.title for c in contact_sheet("t", [one, two], "r", False).columns] == ["a", "d", "c", "b"]
    assert [c.mean for c in contact_sheet("t", [one, two], "r").columns] == pytest.approx([0.9, 0.5, 0.2, None])
    with pytest.raises(InputError, match="at least one picture"):
        contact_sheet("t", [row(0, 0)])


# ----- paper -----


@pytest.mark.parametrize(("pictures", "methods", "most"), [(1, 2, 1), (3, 4, 1), (3, 26, 2), (3, 39, 2), (12, 3, 2), (20, 2, 2)])
def test_a_sheet_is_a_few_pages_with_tiles_that_can_be_seen(pictures: int, methods: int, most: int) -> None:
    """Every tile is on one page, inside of it, above nothing else, and no narrower than told."""
    found = pages(contact_sheet("net", [row(i, methods) for i in range(pictures)], "r"))
    assert len(found) <= most
    tiles = 0
    for figure in found:
        assert tuple(figure.get_size_inches()) == PAPER
        boxes = [axes.get_position().extents for axes in figure.axes]
        assert all(b[0] >= 0.02 and b[1] >= 0.02 and b[2] <= 0.98 and b[3] <= 0.95 for b in boxes)
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                assert one[0] >= other[2] or one[2] <= other[0] or one[1] >= other[3] or one[3] <= other[1]
        wide = [(b[2] - b[0]) * PAPER[0] for b, axes in zip(boxes, figure.axes, strict=True) if not axes.axison]
        assert min(wide) >= min(FEW.values()) - 1e-6
        assert max(wide) <= WIDEST + 1e-6
        tiles += len(wide)
    assert (tiles - pictures * methods) % pictures == 0, "each picture once for every band of columns"
    assert tiles > pictures * methods


def test_pages_hold_names_as_they_are() -> None:
    bad = row(0, 2, HOSTILE)
    (figure,) = pages(contact_sheet(HOSTILE, [bad]))
    assert png_of(figure).startswith(b"\x89PNG")
    svg = svg_of(figure)
    found = [(e.tag.partition("}")[2], *e.attrib) for e in ElementTree.fromstring(svg.decode()).iter()]
    assert not [e for e in found if e[0] == "script" or "onerror" in e]
    known = "svg metadata RDF Work type format creator Agent title defs style g path use image clipPath rect"
    assert {e[0] for e in found} <= set(known.split())
    assert Image.open(io.BytesIO(png_of(figure))).info["Software"] == "onnxsal"


# ----- slides -----


def facts(**more: object) -> dict:
    top = [{"index": i, "label": None if i else "tabby, tabby cat", "output": 0.6 - i / 5} for i in range(3)]
    told = {"top": top, "target": top[0], "against": None, "score": 3.25, "probabilities": True, "warnings": [], "residual": 1e-6}
    return told | {"name": "cat.jpg", "model_name": "net.onnx", "method": "gradcam"} | more


@pytest.mark.parametrize("shape", [(30, 30), (40,)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_slide_says_what_was_answered_and_what_the_colours_mean(shape: tuple[int, ...], sign: int) -> None:
    values = np.random.default_rng(0).random(shape) * np.where(np.arange(shape[-1]) % 2, 1, sign)
    shown = row(0, 0).shown if len(shape) == 2 else ShownValues(np.ones((1, 40)))
    figure = slide(facts(), "Grad-CAM", scale_map(values, places=len(shape)), shown)
    told = " ".join(t.get_text() for t in figure.texts).replace("\n", " ")
    for words in ("tabby", "60.0% probable, says net.onnx", "Grad-CAM", "Orange-red" if sign < 0 else "brighter", "cat.jpg"):
        assert words in told
    ticks = [t.get_text() for axes in figure.axes for t in axes.get_yticklabels() + axes.get_xticklabels()]
    assert {"tabby", "class 1", "class 2"} <= set(ticks)
    assert ({"against", "for"} if sign < 0 else {"less", "most"}) <= set(ticks)
    width, height = Image.open(io.BytesIO(png_of(figure))).size
    assert (width, height) == (1920, 1080)


def test_a_slide_calls_a_logit_no_probability() -> None:
    scaled, shown = scale_map(np.eye(30)), row(0, 0).shown
    logit = slide(facts(probabilities=False), "m", scaled, shown)
    against = slide(facts(against={"index": 1, "label": "dog"}), "m", scaled, shown)
    box = slide(facts(target={"index": 0, "label": "car", "place": "box 3"}), "m", scaled, shown)
    for figure, words in ((logit, "score 3.25"), (against, "tabby rather than dog"), (box, "box 3: car")):
        told = " ".join(t.get_text() for t in figure.texts).replace("\n", " ")
        assert words in told
        assert "probable" not in told
    assert "difference of scores 3.25" in " ".join(t.get_text() for t in against.texts).replace("\n", " ")


def test_long_names_stay_on_the_slide() -> None:
    long = "an extraordinarily long name of a class with many words " * 4
    top = [{"index": i, "label": long, "output": 0.2} for i in range(5)]
    warning = "3.0% of the score reaches the input; the rest is in biases and constants and leaks, which the map does not show"
    figure = slide(facts(top=top, target=top[0], warnings=[warning] * 2), "A method of " * 4, scale_map(np.eye(30)), row(0, 0).shown)
    pixels = np.asarray(Image.open(io.BytesIO(png_of(figure))).convert("RGB"))
    for edge in (pixels[:10], pixels[-10:], pixels[:, :10], pixels[:, -10:]):
        assert (edge == 255).all()


# ----- on the command line -----


def test_methods_side_by_side(here: Path) -> None:
    words = ("explain", here / "cnn.onnx", here / "pictures", "--methods", "gradient,gradcam,ig:n_steps=5,ig:n_steps=7", "-o", here / "out")
    records = answer(*words)
    assert len(records) == 8
    assert len({r["files"]["attribution"] for r in records}) == 8
    page = read(Path(records[0]["files"]["contact_page"]).read_bytes())
    titles = [str(a["aria-label"]) for tag, a in page.tags if tag == "button" and "aria-label" in a]
    for name in ("one.png", "two.png"):
        for method in ("gradient", "gradcam", "integrated_gradients:n_steps=5", "integrated_gradients:n_steps=7"):
            assert titles.count(f"{name} by {method}, enlarge") == 1
    assert "slide" not in records[0]["files"], "of a few only"
    told = done(*words).stdout
    assert "contact_sheet.html" in told
    assert "gradcam" in told.splitlines()[2 + 1]
    assert "--methods several" in mistake("explain", here / "cnn.onnx", here / "pictures", "--methods", "gradient", "-m", "ig")


def test_targets_side_by_side(here: Path) -> None:
    """Labels with commas in them, several with commas between, or the option again; each as if asked alone."""
    one = here / "pictures" / "one.png"
    common = ("explain", here / "cnn.onnx", one, "-m", "gradient", "--no-slides")
    alone = [answer(*common, "-t", k, "-o", here / f"alone{k}")[0] for k in (2, 3)]
    for number, words in enumerate((("-t", "cat, house cat", "-t", "dog"), ("-t", "house cat,dog"), ("-t", "2,3"))):
        found = answer(*common, *words, "-o", here / f"out{number}")
        assert [r["target"]["index"] for r in found] == [2, 3]
        assert [Path(r["files"]["attribution"]).name for r in found] == ["one.class2.gradient.npy", "one.class3.gradient.npy"]
        for got, wanted in zip(found, alone, strict=True):
            np.testing.assert_array_equal(np.load(got["files"]["attribution"]), np.load(wanted["files"]["attribution"]))
    page = read(Path(found[0]["files"]["contact_page"]).read_bytes())
    assert {"cat", "dog"} <= {t.strip() for t in page.texts}
    (rather,) = answer(*common, "-t", "dog", "--against", "runner-up", "-o", here / "rather", "--slides")
    assert rather["against"]["index"] != 3
    assert Path(rather["files"]["slide"]).exists()


def test_a_method_that_refuses_is_named_and_the_others_are_shown(here: Path) -> None:
    result = run("explain", here / "cnn.onnx", here / "pictures", "--methods", "gradient,patternnet", "-o", here / "out", "--json")
    assert result.exit_code == 0
    assert "patternnet refused: " in result.stderr
    assert len(json.loads(result.stdout)) == 2


def test_a_warning_is_said_once(here: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (16, 16), "black").save(here / "pictures" / f"{name}.png")
    (here / "cnn.toml").write_text("scale = 1\nresize = [16, 16]\n")
    result = run("explain", here / "cnn.onnx", here / "pictures", "-o", here / "out", "-m", "ixg")
    assert result.stderr.count("warning: ") == 1
    assert "a.png and 2 more: " in result.stderr


def test_svg_beside_every_picture_for_people(here: Path) -> None:
    found = answer("explain", here / "cnn.onnx", here / "pictures", "-m", "gradient", "-o", here / "out", "--svg")
    for key in ("slide_svg", "contact_sheet_svg"):
        path = Path(found[0]["files"][key])
        assert path.read_text().startswith("<?xml")
    answer("explain", here / "cnn.onnx", here / "pictures", "-m", "gradient", "-o", here / "out", "--svg")  # ours, so written over


def test_without_matplotlib_one_line_says_what_is_missing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    words = ("explain", here / "cnn.onnx", here / "pictures", "-m", "gradient", "-o", here / "out")
    told = done(*words).stdout
    assert told.count("pip install 'onnxsal[plot]'") == 1
    names = {p.name for p in (here / "out").iterdir()}
    assert {"contact_sheet.html", "one.gradient.overlay.png", "one.gradient.map.png"} <= names
    assert not [n for n in names if "slide" in n or n == "contact_sheet.png"]
    assert "onnxsal[plot]" in mistake(*words, "--slides")

"""The bench and its page: the networks are alive, the page has the rows and columns that the bench knows. Timings are nobody's test."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal.runtime.session import open_session
from tests.small_models import cnn
from tools import bench
from tools.speed import nets, page
from tools.speed.measure import PRODUCTS, REORDERS, feed, profile, ratios, reorders

SMALL = {
    "resnet50": lambda: nets.resnet50(8, (1, 1, 1, 1)),
    "lite0": nets.lite0,
    "mobilenet_v3": nets.mobilenet_v3,
    "vit_s16": lambda: nets.vit(2),
    "minilm": lambda: nets.minilm(2, words=10_000),
}


@pytest.mark.parametrize("name", nets.NETS)
def test_a_network_is_alive(name):
    """It tells two inputs apart, and neither it nor its gradient is dead or blown up."""
    assert name in SMALL
    explainer = onnxsal.Explainer(SMALL[name](), "gradient", providers="cpu")
    explained = explainer.explain(feed(explainer.session._session, 2))
    y = explained.outputs[explainer.conversion.question.output]
    assert 0.05 < np.abs(y).max() < 50
    assert np.abs(y[0] - y[1]).max() > 1e-2 * np.abs(y).max()
    assert np.abs(explained.attribution).max() > 1e-4
    assert (explained.attribution != 0).mean() > 0.5


@pytest.mark.parametrize("name", ["resnet50", "lite0", "mobilenet_v3", "vit_s16"])
def test_the_twin_in_torch_is_the_network(name):
    torch = pytest.importorskip("torch")
    from tools.speed.twin import Twin

    model = SMALL[name]()
    opened = open_session(model, "cpu")
    x = np.random.default_rng(1).standard_normal((2, 3, 224, 224)).astype(np.float32)
    expected = next(iter(opened.run({opened.inputs[0].name: x}).values()))
    with torch.no_grad():
        found = Twin(model).eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_resnet50_has_the_layout_and_the_size_of_torchvisions():
    """25,557,032 parameters, less the scales of batch normalisation (26,560), which are in the weights."""
    model = nets.resnet50()
    assert sum(int(np.prod(t.dims)) for t in model.graph.initializer) == 25_557_032 - 26_560
    told = [{a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in model.graph.node if n.op_type == "Conv"]
    assert len(told) == 53
    assert sorted(t["kernel_shape"] for t in told if t["strides"] == [2, 2]) == [[1, 1]] * 3 + [[3, 3]] * 3 + [[7, 7]]


def test_the_floor_is_what_products_take(tmp_path):
    """The kernels that are counted are there under the names that ONNX Runtime's profile gives, and are part of the whole run."""
    path = tmp_path / "model.onnx"
    onnx.save(cnn(size=32), path)
    runs = profile(str(path), 1, 2)
    assert len(runs) == 2
    for spent in runs:
        assert {"Conv", "Gemm"} <= spent.keys() or {"Conv", "FusedGemm"} <= spent.keys()
        assert 0 < sum(spent[k] for k in PRODUCTS) < spent[""]


def test_ratios_are_medians_of_pairs():
    found = ratios(np.array([[1.0, 2.0], [2.0, 8.0], [1.0, 3.0]]))
    assert found == {"ratio": 3.0, "best": 2.0, "ms": 3000.0, "plain_ms": 1000.0}


def test_reorders_are_counted_inside_graphs_too():
    inner = onnx.helper.make_graph([onnx.helper.make_node(REORDERS[0], ["a"], ["b"])], "inner", [], [])
    outer = onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    graph = onnx.helper.make_graph([outer, onnx.helper.make_node(REORDERS[1], ["d"], ["e"])], "g", [], [])
    assert reorders(graph) == 3


# ----- the page -----


def sections(text: str) -> dict[str, list[list[str]]]:
    """Heading -> the rows of its table, cell by cell."""
    found: dict[str, list[list[str]]] = {}
    for block in text.split("### ")[1:]:
        rows = [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith("|")]
        found[block.splitlines()[0]] = [[cell.strip() for cell in row] for row in rows]
    return found


def expected_rows(name: str) -> list[str]:
    methods = bench.METHODS[name].split()
    return [bench.PLAIN, *methods, *bench.peers_of(methods)]


def test_the_page_has_the_rows_and_columns_that_the_bench_knows():
    """Each network by its title, each method, each peer (where PyTorch has no such network, a word of it)."""
    text = page.PAGE.read_text(encoding="utf-8")
    for name in ("tables", "tables of batch 8"):
        found = sections(page.part(text, name))
        known = {bench.title(net): expected_rows(net) for net in bench.METHODS}
        assert found
        assert found.keys() <= known.keys()
        for title, (head, rule, *rows) in found.items():
            assert head == ["method", *(c.head for c in page.COLUMNS)]
            assert len(rule) == len(head)
            labels = [row[0] for row in rows]
            assert labels == known[title][: len(labels)]
            assert len(labels) > len([r for r in known[title] if r not in bench.PEERS])
        assert re.match(r"Measured on .+ with onnxruntime(-gpu)? [0-9.]+, .+, by `tools/bench.py .*--write.*`\.", page.part(text, name))


def test_the_page_is_written_between_its_marks(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    begin, end = page.marks("tables")
    page.PAGE.write_text(f"before\n{begin}\n\nold\n\n{end}\nbehind\n", encoding="utf-8")
    rows = {"a": {"ratio": 2.5, "reorders": 3}, "b": {"failed": "refused: it has no picture"}}
    page.write("tables", page.markdown(rows))
    text = page.PAGE.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith(f"{end}\nbehind\n")
    assert "| a | 2.50 |" in text
    assert "| b | refused: it has no picture |" in text
    assert "old" not in text
    with pytest.raises(ValueError, match="marks"):
        page.write("another", "")


def test_the_commands_of_the_page_are_those_of_the_tool():
    lines = [line.split("#")[0] for line in page.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("tools/bench.py")]
    assert len(lines) >= 4
    for line in lines:
        bench.options().parse_args(line.split()[1:])

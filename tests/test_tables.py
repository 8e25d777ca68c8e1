"""Tables with named columns: read, matched with a model, explained, drawn and measured; against scikit-learn and by laws of the sums."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image
from typer.testing import CliRunner

import onnxsal
from onnxsal.ask.guard import plain_model
from onnxsal.ask.request import Ask
from onnxsal.cli.app import app
from onnxsal.errors import InputError
from onnxsal.facts.table_tensor import Slot, slots_of, table_tensor
from onnxsal.given.tables import at_the_table, read_rows
from onnxsal.metrics.open_rows import open_rows
from onnxsal.metrics.scorer import Scorer
from onnxsal.report.gathered import by_sample, gathered
from onnxsal.runtime.columns import ToldColumns, by_column, columns_beside, grouped
from onnxsal.runtime.row_figure import SPREAD, draw_means, draw_row, draw_swarm, swarm, value_shares
from onnxsal.runtime.shown import ShownRow
from onnxsal.runtime.table_files import is_table, numbers, open_table, words
from tests.small_models import make, node
from tests.tabular import NAMES, NUMBERS, exported, frame, pipeline, written
from tests.trees import forest, function_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def explainer() -> onnxsal.Explainer:
    return onnxsal.Explainer(exported(), "integrated_gradients")


@pytest.fixture(scope="module")
def linear() -> onnx.ModelProto:
    """y = x W, [N, 5] to [N, 2], without names of columns."""
    weight = np.random.default_rng(3).normal(size=(5, 2)).astype(np.float32)
    return make([node("MatMul", "x w", "y")], {"x": ["N", 5]}, {"y": ["N", 2]}, {"w": weight})


def run(*words: object) -> str:
    """What a command says, on both streams; it must end well."""
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: object) -> str:
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


# ----- where the columns are -----


@pytest.mark.parametrize("trees", [False, True])
def test_columns_meet_where_scikit_learn_puts_them(trees: bool):
    """The tensor that is found holds what the transformer makes of a row, and each element is of the column that the transformer says."""
    model = plain_model(exported(trees), None)
    found = table_tensor(model)
    assert found is not None
    transform = pipeline(trees)[0]
    of = [name.split("__")[1].split("_")[0] for name in transform.get_feature_names_out()]
    assert [slot.input for slot in found.slots if slot is not None] == of
    work = open_rows(Ask(exported(trees)), frame())
    x = np.concatenate([sample.x for sample in work.data.samples()])
    dense = transform.transform(frame()[NUMBERS + NAMES])
    np.testing.assert_allclose(x, dense.toarray() if hasattr(dense, "toarray") else dense, atol=1e-5)


def test_a_single_input_is_the_table_itself(linear: onnx.ModelProto):
    model = plain_model(linear, None)
    assert slots_of(model) == tuple(Slot("x", i) for i in range(5))
    found = table_tensor(model)
    assert found is not None
    assert found.name == "x"


def test_mixed_elements_are_no_table():
    """x1 + x2 is made of two columns: nothing says how its attribution is shared out."""
    nodes = [node("Add", "a b", "s"), node("Tanh", "s", "y")]
    assert table_tensor(plain_model(make(nodes, {"a": ["N", 1], "b": ["N", 1]}, {"y": ["N", 1]}), None)) is None


def test_a_way_around_the_table_is_seen():
    """An input that is read again behind the tensor is not explained there."""
    nodes = [node("Concat", "a b", "c", axis=1), node("Tanh", "c", "t"), node("Mul", "t a", "y")]
    assert table_tensor(plain_model(make(nodes, {"a": ["N", 1], "b": ["N", 1]}, {"y": ["N", 2]}), None)) is None


# ----- laws -----


def test_the_same_data_give_the_same_maps_to_the_bit(explainer: onnxsal.Explainer, tmp_path: Path):
    given = frame(12)
    given.to_csv(tmp_path / "rows.csv", index=False)
    given.to_parquet(tmp_path / "rows.parquet", index=False)
    shuffled = given[["city", "label", "income", "id", "colour", "age"]]
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False, sep=";")
    arrow = pyarrow.Table.from_pandas(given)
    first = explainer.explain(given)
    for other in (tmp_path / "rows.csv", str(tmp_path / "rows.parquet"), tmp_path / "shuffled.csv", arrow, shuffled):
        again = explainer.explain(other)
        assert again.attribution.tobytes() == first.attribution.tobytes()
        assert again.shown[3].values == first.shown[3].values
        assert again.shown == first.shown
    by_hand = {c: given[[c]].to_numpy(object if c in NAMES else np.float32) for c in NUMBERS + NAMES}
    assert explainer.explain(by_hand).attribution.tobytes() == first.attribution.tobytes()


def test_columns_sum_to_the_row_and_to_the_law(explainer: onnxsal.Explainer):
    """Of a linear model each column is weight times value: scikit-learn's own coefficients are the oracle."""
    found = explainer.explain(frame(10), 1)
    x = np.asarray(pipeline()[0].transform(frame(10)[NUMBERS + NAMES]))
    wanted = x * pipeline()[1].coef_
    for i, row in enumerate(found.shown):
        columns = by_column(row, found.attribution[i])
        assert row.columns == ("age", "income", "colour", "city")
        np.testing.assert_allclose(columns.sum(), found.attribution[i].astype(np.float64).sum(), rtol=1e-12)
        np.testing.assert_allclose(columns, [wanted[i, 5], wanted[i, 6], wanted[i, :3].sum(), wanted[i, 3:5].sum()], rtol=1e-4, atol=1e-6)


def test_gaps_are_filled_by_the_model_and_explained_behind_that(explainer: onnxsal.Explainer):
    given = frame(8)
    assert np.isnan(given.income[0])
    filled = given.fillna({"income": float(frame().income.mean())})
    found, other = explainer.explain(given), explainer.explain(filled)
    np.testing.assert_allclose(found.attribution, other.attribution, atol=1e-6)
    assert found.shown[0].values[1] is None


def test_shapley_values_of_one_hot_columns_are_those_of_the_function():
    """A group that moves together is one player: the values are those of the four columns, by the formula over all coalitions."""
    ask = at_the_table(Ask(exported(True), "shapley_sampling"), open_table(frame(3)))
    explainer = onnxsal.Explainer.of(ask)
    rows = read_rows(open_table(frame(3)), explainer.fed)
    found = explainer.explain(rows.feed, 1)
    work = open_rows(Ask(exported(True)), frame(3))
    f = function_of(work.ask.model, "probabilities")
    own = np.array(work.places.column)  # names first, as the transformer has them
    for i, sample in enumerate(work.data.samples()):
        phi = _shapley(lambda members, x=sample.x: float(f(np.where(np.isin(own, members), x, 0))[0, 1]), 4)
        np.testing.assert_allclose(by_column(rows.shown[i], found.attribution[i]), phi[[2, 3, 0, 1]], atol=1e-5)


def _shapley(value: object, players: int) -> np.ndarray:
    """The mean gain of each player over all orders."""
    from itertools import permutations

    gains = np.zeros(players)
    orders = list(permutations(range(players)))
    for order in orders:
        for place, player in enumerate(order):
            gains[player] += value(list(order[: place + 1])) - value(list(order[:place]))  # type: ignore[operator]
    return gains / len(orders)


def test_groups_of_one_hot_columns_sum(linear: onnx.ModelProto, tmp_path: Path):
    """Five plain columns, three of them categories by their names: the group has their sum, and says which one was set."""
    names = ["age", "colour=red", "colour=blue", "colour_green", "size"]
    given = pd.DataFrame(np.float32([[40, 0, 1, 0, 2], [20, 1, 0, 0, 3]]), columns=names)
    path = tmp_path / "plain.onnx"
    onnx.save(linear, path)
    (tmp_path / "plain.toml").write_text('columns = ["age", "colour=red", "colour=blue", "colour_green", "size"]\n[groups]\ncolour = []\n')
    told = onnxsal.Explainer(path, "input_x_gradient").explain(given[names[::-1]])
    alone = onnxsal.Explainer(linear, "input_x_gradient").explain(given)
    assert told.attribution.tobytes() == alone.attribution.tobytes()
    assert told.shown[0].columns == ("age", "colour", "size")
    assert told.shown[0].values[1] == "blue"
    single = by_column(alone.shown[0], alone.attribution[0])
    np.testing.assert_allclose(by_column(told.shown[0], told.attribution[0]), [single[0], single[1:4].sum(), single[4]], rtol=1e-12)


# ----- what is matched, and what is refused -----


def test_a_model_without_names_takes_columns_in_their_order_and_says_so(linear: onnx.ModelProto):
    explainer = onnxsal.Explainer(linear, "gradient")
    given = pd.DataFrame(np.ones((2, 5), np.float32), columns=list("vwxyz"))
    assert "taken in their order" in explainer.explain(given).doubt
    with pytest.raises(InputError, match="has 6 columns, and the model takes 5 without saying"):
        explainer.explain(given.assign(id=1))
    rows = read_rows(open_table(given.assign(id=1)), explainer.fed, ToldColumns(tuple("zyxwv")))
    assert not rows.doubt
    assert list(rows.beside) == ["id"]
    assert rows.shown[0].columns == tuple("zyxwv")


def test_names_of_columns_travel_with_a_converted_file(linear: onnx.ModelProto, tmp_path: Path):
    onnx.save(linear, tmp_path / "plain.onnx")
    (tmp_path / "plain.toml").write_text('columns = ["a", "b", "c", "d", "e"]\n')
    run("convert", tmp_path / "plain.onnx", tmp_path / "made.onnx", "-m", "input_x_gradient")
    (tmp_path / "plain.toml").unlink()
    given = pd.DataFrame(np.arange(10, dtype=np.float32).reshape(2, 5), columns=list("abcde"))
    found = onnxsal.Explainer(tmp_path / "made.onnx").explain(given[list("edcba")].assign(id=1))
    again = onnxsal.Explainer(linear, "input_x_gradient").explain(given)
    assert found.attribution.tobytes() == again.attribution.tobytes()
    assert found.shown[0].columns == tuple("abcde")


WRONG = {
    "no column": (lambda t: t.rename(columns={"age": "Age"}), "has no column 'age' .did you mean 'Age'"),
    "a word": (lambda t: t.assign(age=["40", "old", "30"]), "column 'age', row 2: 'old' is no number"),
    "a gap": (lambda t: t.assign(colour=["red", None, "blue"]), "column 'colour', row 2: nan is missing; the model takes a name"),
    "a number as a name": (lambda t: t.assign(colour=[1.0, 2.0, 3.0]), "column 'colour' holds numbers, and the model takes names"),
    "infinity": (lambda t: t.assign(age=[1, np.inf, 2]), "column 'age', row 2: infinity"),
    "a date": (lambda t: t.assign(age=pd.to_datetime(["2020-01-01"] * 3)), "datetime64.*no numbers"),
    "no rows": (lambda t: t[:0], "has no rows"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_cells_that_do_not_fit_are_named(explainer: onnxsal.Explainer, change, message: str):
    with pytest.raises(InputError, match=message):
        explainer.explain(change(frame(3)))


def test_gaps_that_the_model_does_not_fill_are_refused(linear: onnx.ModelProto):
    given = pd.DataFrame(np.ones((3, 5), np.float32), columns=list("vwxyz"))
    given.loc[[0, 2], "x"] = np.nan
    with pytest.raises(InputError, match=r"column 'x': 2 missing value.*in row 1, 3.*does not fill gaps"):
        onnxsal.Explainer(linear, "gradient").explain(given)


def test_whole_numbers_are_not_rounded():
    model = make([node("Cast", "n", "c", to=1), node("Tanh", "c", "y")], {"n": ["N", 1]}, {"y": ["N", 1]}, types={"n": 7})
    explainer = onnxsal.Explainer(model, "gradient")
    with pytest.raises(InputError, match=r"row 2: 1\.5 is no whole number"):
        explainer.explain(pd.DataFrame({"n": [1, 1.5]}))
    assert len(explainer.explain(pd.DataFrame({"n": [1, 2]}))) == 2


HOSTILE = {
    "ragged": ("a,b\n1,2\n3\n", "cannot be read: CSV parse error.*Expected 2 columns, got 1"),
    "longer": ("a,b\n1,2\n3,4,5\n", "Expected 2 columns, got 3"),
    "twice": ("a,a\n1,2\n", "has the column 'a' twice"),
    "empty": ("", "cannot be read"),
    "header only": ("a,b\n", "has no rows below its header"),
    "NUL": ("a\0,b\n1,2\n", "holds NUL"),
    "wide": ("," * 20_000 + "\n", "20,001 columns are more than 16,384.*ONNXSAL_MAX_TABLE_COLUMNS"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_csv_is_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        open_table(path)


def test_other_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "latin.csv").write_bytes("naïve\n1\n".encode("latin-1"))
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "big.csv").write_text("a\n" + "1\n" * 100)
    monkeypatch.setenv("ONNXSAL_MAX_TABLE_BYTES", "50")
    for name, message in (
        ("latin.csv", "not UTF-8"),
        ("t.parquet", "cannot be read"),
        ("big.csv", "TABLE_BYTES"),
        ("no.csv", "No such file"),
    ):
        with pytest.raises(InputError, match=message):
            open_table(tmp_path / name)


def test_cells_are_text_until_a_model_wants_them(tmp_path: Path):
    """No type is guessed from how a cell looks: "01" stays a name, and is a number where a number is wanted."""
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffcode,"a ""b""",gap\r\n01,"1\n2",\r\n02,3,NaN\r\nNA,x,1e3\r\n'.encode())
    table = open_table(path)
    assert list(table.columns) == ["code", 'a "b"', "gap"]
    assert words(table.columns["code"], "code").tolist() == ["01", "02", "NA"]
    np.testing.assert_array_equal(numbers(table.columns["code"], "code"), [1, 2, np.nan])
    np.testing.assert_array_equal(numbers(table.columns["gap"], "gap"), [np.nan, np.nan, 1000])
    for text in ("1_0", "0x1", "1,5", "٣", "1e", "--1", "1 2"):
        with pytest.raises(InputError, match=r"row 1: .* is no number"):
            numbers(np.array([text], object), "it")
    with pytest.raises(InputError, match="row 1: infinity"):
        numbers(np.array(["1e999"], object), "it")


def test_what_is_a_table():
    assert all(map(is_table, ("a.csv", Path("b.PARQUET"), frame(1), pyarrow.table({"a": [1]}))))
    assert not any(map(is_table, ("a.png", np.ones((2, 2)), {"a": np.ones(1)}, None, [1])))


def test_groups_that_do_not_fit_are_refused():
    columns = ["age", "colour=red", "colour=blue"]
    assert grouped(columns, {"colour": ()}).members == (("age",), ("colour=red", "colour=blue"))
    assert grouped(columns, {"all": ("*",)}).names == ("all",)
    for groups, message in (
        ({"color": ()}, "no column is called 'color=...'.*did you mean 'colour'"),
        ({"age": ("colour=*",)}, "called like a column that is not in it"),
        ({"a": ("*",), "b": ("age",)}, "'age' is in the groups 'a' and 'b'"),
    ):
        with pytest.raises(InputError, match=message):
            grouped(columns, groups)


def test_a_toml_of_columns_is_checked(tmp_path: Path):
    (tmp_path / "m.toml").write_text("columns = [1, 2]\n")
    with pytest.raises(InputError, match=r"m\.toml"):
        columns_beside(tmp_path / "m.onnx")


# ----- charts -----


@pytest.fixture
def ax():
    from matplotlib.figure import Figure

    return Figure().subplots()


def bars(ax) -> dict[str, float]:
    return {t.get_text(): p.get_width() for t, p in zip(ax.get_yticklabels(), ax.patches, strict=True)}


def test_the_bars_of_a_row_are_sorted_and_sum(ax):
    values = np.array([0.5, -2.0, 0.0, 1.0, -0.25])
    draw_row(ax, ShownRow(tuple("abcde"), (42.0, "red", None, 1e-9, "x" * 50)), values, most=4, score=3.0, base=3.75)
    found = bars(ax)
    assert list(found) == ["b = red", "d = 1e-09", "a = 42", "2 others"]
    assert list(found.values()) == [-2.0, 1.0, 0.5, -0.25]
    assert sum(found.values()) == pytest.approx(values.sum())
    assert "3.75 without them -0.75 = 3" in ax.get_xlabel()
    colours = [p.get_facecolor() for p in ax.patches]
    assert colours[0] == colours[3] != colours[1] == colours[2]
    with pytest.raises(InputError, match="5 columns"):
        draw_row(ax, ShownRow(tuple("abcde"), (0,) * 5), np.array([np.nan] * 5))


def test_names_do_not_act_in_a_chart(ax):
    draw_row(ax, ShownRow(("$x_1$", "a\x1b[2J\nb"), ("\\frac{1}{2}$", "\u202eabc")), np.array([1.0, -1.0]))
    ax.figure.canvas.draw()
    assert list(bars(ax)) == ["$x_1$ = \\frac{1}{2}$", "a\\x1b[2J\\x0ab = \\u202eabc"]
    assert not any(t.get_parse_math() for t in ax.get_yticklabels())


def test_means_and_swarm_show_every_row(ax):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(40, 3)) * [1, 3, 2]
    rows = [ShownRow(tuple("abc"), (float(i), "name", None if i % 2 else i)) for i in range(40)]
    draw_means(ax, tuple("abc"), array)
    np.testing.assert_allclose(list(bars(ax).values()), np.sort(np.abs(array).mean(0))[::-1])
    assert list(bars(ax)) == ["b", "c", "a"]
    plain = ax.figure.add_subplot()
    draw_swarm(plain, rows, array)
    dots = np.concatenate([c.get_offsets() for c in plain.collections])
    np.testing.assert_allclose(np.sort(dots[:, 0]), np.sort(array.reshape(-1)))
    assert np.all(np.abs(dots[:, 1] - np.rint(dots[:, 1])) <= SPREAD + 1e-9)


def test_a_swarm_follows_from_its_values_alone():
    at = np.r_[np.zeros(9), 1.0, -1.0]
    offsets = swarm(at, 2.0)
    assert len(set(offsets[:9])) == 9
    assert offsets[9] == offsets[10] == 0
    np.testing.assert_array_equal(offsets, swarm(at.copy(), 2.0))


def test_colours_of_values():
    shares = value_shares([0.0, 5, 10.0, "red", None, True])
    np.testing.assert_allclose(shares[1], 0.5)
    assert shares[0] == 0
    assert shares[2] == 1
    assert np.isnan(shares[3:]).all()
    np.testing.assert_array_equal(value_shares([3, 3]), [0.5, 0.5])


# ----- warnings -----


def test_a_warning_is_said_once():
    pairs = by_sample([f"sample {i}: {10 + i}.5% of the score is lost" for i in range(20)], [f"row {i + 1}" for i in range(20)])
    (told,) = gathered([*pairs, ("row 1", "10.5% of the score is lost")], 20)
    assert told.startswith("20 of 20: 10.5% of the score is lost")
    assert gathered([("row 3", "flat")], 20) == ["row 3: flat"]
    assert gathered([("a.png", "flat")], 1) == ["flat"]
    assert gathered(by_sample(["all of them"], ["a", "b"]), 2) == ["2 of 2: all of them"]
    assert len(gathered([("a", "flat"), ("b", "empty")], 2)) == 2


# ----- end to end -----


def test_explain_writes_one_table_one_figure_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = written(tmp_path)
    given = frame(20)
    given["id"] = ["=cmd|' /C calc'!A0", *given["id"][1:]]
    given = given.rename(columns={"label": "@SUM(1)"})
    given.to_csv("rows.csv", index=False)
    said = run("explain", model, "rows.csv", "-m", "ig", "-o", "out", "--parquet")
    base = "rows.integrated_gradients"
    assert sorted(p.name for p in Path("out").iterdir()) == [f"{base}.csv", f"{base}.json", f"{base}.parquet", f"{base}.summary.png"]
    assert "20 rows" in said
    text = Path(f"out/{base}.csv").read_text()
    assert "'@SUM(1)" in text.splitlines()[0]
    assert text.splitlines()[1].startswith("1,'=cmd|")
    table = pd.read_csv(f"out/{base}.csv")
    parquet = pyarrow.parquet.read_table(f"out/{base}.parquet")
    assert parquet["id"][0].as_py() == given["id"][0]
    columns = [c for c in table if c.startswith("attribution ")]
    np.testing.assert_array_equal(table[columns], np.stack([parquet[c].to_numpy() for c in columns], 1))
    oracle = pipeline().decision_function(given[NUMBERS + NAMES])
    predicted = pipeline().predict(given[NUMBERS + NAMES])
    np.testing.assert_array_equal(table["explained class"], predicted)
    np.testing.assert_allclose(table["explained score"], np.where(predicted == 1, oracle, -oracle), rtol=1e-4)
    record = json.loads(Path(f"out/{base}.json").read_text())
    assert record["rows"] == 20
    np.testing.assert_allclose(record["mean_size"]["age"], table["attribution age"].abs().mean())
    assert record["notes"] == ["columns that the model does not take are left out: 'id', '@SUM(1)'"]
    image = Image.open(f"out/{base}.summary.png")
    assert len(image.convert("RGB").getcolors(1 << 16)) > 20
    (Path("out") / f"{base}.csv").write_text("mine")
    assert "not as onnxsal wrote it" in refused("explain", model, "rows.csv", "-m", "ig", "-o", "out")


def test_few_rows_get_a_chart_each(tmp_path: Path):
    model = written(tmp_path, trees=True)
    frame(2).to_csv(tmp_path / "two.csv", index=False)
    run("explain", model, tmp_path / "two.csv", "-m", "shapley_sampling", "-o", tmp_path / "out", "-t", "1")
    assert {p.name.split(".", 2)[2] for p in (tmp_path / "out").iterdir()} == {"csv", "json", "summary.png", "row-1.png", "row-2.png"}
    assert "explained by itself" in refused("explain", model, tmp_path / "two.csv", tmp_path / "two.csv")
    assert "no column is called 'shape=...'" in refused("explain", model, tmp_path / "two.csv", "-m", "ablation", "--group", "shape")


def test_trees_on_plain_columns(tmp_path: Path):
    """feature_ablation of each column is the fall of the model's own score."""
    model = forest(classes=False)
    onnx.save(model, tmp_path / "trees.onnx")
    x = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    given = pd.DataFrame(x, columns=[f"c{i}" for i in range(5)])
    found = onnxsal.Explainer(tmp_path / "trees.onnx", "feature_ablation").explain(given, 1)
    f = function_of(model)
    for i in range(4):
        falls = [f(x[i : i + 1])[0, 1] - f(np.where(np.arange(5) == c, 0, x[i : i + 1]))[0, 1] for c in range(5)]
        np.testing.assert_allclose(by_column(found.shown[i], found.attribution[i]), falls, atol=1e-6)


# ----- measured -----


def test_deletion_takes_columns_away_whole():
    """The curve of one row, by hand: columns in the order of the map, each replaced by its mean over the table."""
    work = open_rows(Ask(exported(True)), frame(30))
    scorer = Scorer.of(work.ask)
    scorer.columns = work.places
    x = np.concatenate([s.x for s in work.data.samples()])
    order = [2, 0, 3, 1]  # of places: colour, city, age, income
    maps = np.zeros((len(x), 4))
    maps[:, order] = [4, 3, 2, 1]
    found = onnxsal.metrics.deletion(scorer, x, maps, 1)
    f, own = function_of(work.ask.model, "probabilities"), np.array(work.places.column)
    for taken in range(5):
        changed = np.where(np.isin(own, order[:taken]), x.mean(0, dtype=np.float64).astype(np.float32), x)
        np.testing.assert_allclose(found.scores[:, taken], f(changed)[:, 1], atol=1e-6)


def test_evaluate_runs_from_a_csv(tmp_path: Path):
    model = written(tmp_path)
    frame(24).rename(columns={"label": "truth"}).to_csv(tmp_path / "rows.csv", index=False)
    out = tmp_path / "ev"
    run("evaluate", model, tmp_path / "rows.csv", "-o", out, "--labels-column", "truth", "-m", "ig,gradient,gradcam", "--target", "label")
    facts = json.loads((out / "evaluation.json").read_text())
    assert facts["labelled"] == facts["samples"] == 24
    assert facts["model"] == str(model)
    assert list(facts["refused"]) == ["gradcam"]
    means = {row["method"]: row["mean"] for row in facts["summary"] if row["metric"] == "id_score"}
    assert means["integrated_gradients"] > means["random"]
    assert facts["metrics"]["insertion"]["title"] == "area under the score while the most salient columns are put back"
    assert "lies" in refused("evaluate", model, tmp_path / "rows.csv", "-o", out, "--metrics", "pointing_game")
    assert "no column 'y'" in refused("evaluate", model, tmp_path / "rows.csv", "-o", out, "--labels-column", "y")
    assert "one that the model takes" in refused("evaluate", model, tmp_path / "rows.csv", "-o", out, "--labels-column", "city")
    assert "no class is called so" in refused("evaluate", model, tmp_path / "rows.csv", "-o", out, "--labels-column", "id")


def test_labels_are_names_before_they_are_numbers():
    """A class that is called "1" is that class, wherever it stands."""
    given = frame(6)
    model = exported(True)
    assert [s.label for s in open_rows(Ask(model), given).data.samples()] == given.label.tolist()
    named = open_rows(Ask(model, labels=["1", "0"]), given).data
    assert [s.label for s in named.samples()] == (1 - given.label).tolist()
    words = open_rows(Ask(model, labels=["no", "yes"]), given.assign(label=["yes", "no", None, "1", "0", "yes"])).data
    assert [s.label for s in words.samples()] == [1, 0, None, 1, 0, 1]

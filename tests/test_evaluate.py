"""``evaluate``: data sets, baselines, every number against the metric itself, resuming, the files and the command line."""

from __future__ import annotations

import csv
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

import onnxsal
from onnxsal.cli import app
from onnxsal.cli.ways import chosen_ways
from onnxsal.errors import InputError, MethodError, PlanError
from onnxsal.metrics import faithfulness, localisation
from onnxsal.metrics.baselines import BASELINES, baseline_maps
from onnxsal.metrics.evaluate import CHUNK, evaluate
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.input_places import InputPlaces
from onnxsal.metrics.measures import MEASURES, Settings, chosen_measures
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.metrics.record import Record
from onnxsal.metrics.scorer import Scorer
from onnxsal.metrics.statistics import paired
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.session import Tensor
from tests.small_models import make, node

ROOT = Path(__file__).resolve().parent.parent
SIDE = 16
HOW = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,), resize=(SIDE, SIDE))
INPUT = Tensor("x", "tensor(float)", np.dtype(np.float32), ("N", 3, SIDE, SIDE))
CLASSES = ("ant", "bee", "cat, house cat", "dog", "eel")
CNN = ROOT / "models" / "tiny" / "cnn.onnx"


def picture(seed: int, height: int = 20, width: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/ and masks/, two classes, three pictures each, one of them damaged, one without a mask."""
    data = tmp_path / "data"
    for number, place in enumerate(("bee/a", "bee/b", "dog/c", "dog/d", "dog/e")):
        file = data / "images" / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(file)
        if place != "dog/e":
            mask = np.zeros((20, 24), np.uint8)
            mask[5:15, 4:12] = 255
            (data / "masks" / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(data / "masks" / f"{place}.gif")
    (data / "images" / "bee" / "z.png").write_bytes(b"\x89PNG nonsense")
    return data


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "cnn.onnx"
    path.write_bytes(CNN.read_bytes())
    (tmp_path / "cnn.toml").write_text("scale = 0.00392156862745098\nmean = 0.5\nstd = 0.25\nresize = [16, 16]\n")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    return path


def measured(
    model: object, data: object, methods: Sequence[object] = ("gradient",), metrics: Sequence[str] = ("deletion",), **given: object
) -> Evaluation:
    return evaluate(model, data, methods, metrics, given.pop("settings", Settings(step=64)), preprocess=HOW, labels=CLASSES, **given)


# ----- data -----


def test_a_folder_with_classes_masks_and_a_damaged_picture(folder: Path) -> None:
    data = open_dataset(folder, INPUT, HOW, CLASSES)
    assert data.names == ("bee/a.png", "bee/b.png", "bee/z.png", "dog/c.png", "dog/d.png", "dog/e.png")
    assert (len(data), data.labelled, data.masked) == (6, 6, 4)
    found = list(data)
    assert [s.label for s in found] == [1, 1, 3, 3, 3]
    assert [s.mask is not None for s in found] == [True, True, True, True, False]
    assert list(data.damaged) == ["bee/z.png"]
    assert "not a picture" in data.damaged["bee/z.png"]
    assert found[0].x.shape == (1, 3, SIDE, SIDE)
    assert found[0].picture.shape == (SIDE, SIDE, 3)
    assert np.array_equal(found[0].x, HOW.apply(folder / "images" / "bee" / "a.png"))
    assert found[0].mask.mean() == pytest.approx(10 * 8 / (20 * 24), abs=0.03)
    assert [len(b) for b in data.batches(2)] == [2, 2, 1]


def test_some_samples_are_drawn_by_a_seed_in_their_order(folder: Path) -> None:
    data = open_dataset(folder, INPUT, HOW, CLASSES)
    few = data.some(3, 1)
    assert few.names == data.some(3, 1).names
    assert list(few.names) == sorted(few.names)
    assert "drawn by seed 1" in few.notes[0]
    assert {data.some(3, s).names for s in range(9)} != {few.names}


def test_sub_folders_are_classes_all_or_none(folder: Path) -> None:
    assert open_dataset(folder, INPUT, HOW).labelled == 0
    assert "name no classes" in open_dataset(folder, INPUT, HOW).notes[0]
    (folder / "images" / "bee").rename(folder / "images" / "bea")
    with pytest.raises(InputError, match=r"1 name classes and 1 do not \(bea\).*did you mean 'bee'"):
        open_dataset(folder, INPUT, HOW, CLASSES)
    (folder / "images" / "bea").rename(folder / "images" / "4")
    data = open_dataset(folder, INPUT, HOW, CLASSES)
    assert data.label("4/a.png") == 4


def test_a_table_names_files_labels_and_masks(folder: Path) -> None:
    table = folder / "all.csv"
    table.write_text("File,Label,Mask\nimages/bee/a.png,house cat,masks/bee/a.gif\nimages/bee/a.png,2,\nimages/gone.png,,\n")
    data = open_dataset(table, INPUT, HOW, CLASSES)
    assert data.names == ("images/bee/a.png", "images/bee/a.png#2", "images/gone.png")
    assert [(s.label, s.mask is None) for s in data] == [(2, False), (2, True)]
    assert "No such file" in data.damaged["images/gone.png"]
    assert open_dataset(folder, INPUT, HOW, CLASSES).names == data.names  # the only table in a folder
    table.write_text("file,label\nimages/bee/a.png,wolf\n")
    with pytest.raises(InputError, match=r"line 2: label 'wolf': no class is labelled so"):
        open_dataset(table, INPUT, HOW, CLASSES)
    table.write_text("name\nx\n")
    with pytest.raises(InputError, match="needs a column 'file'"):
        open_dataset(table, INPUT, HOW, CLASSES)


def test_a_pictures_own_transparency_is_its_mask(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:10, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "stamp.png")
    (sample,) = open_dataset(tmp_path, INPUT, HOW, masks="alpha")
    assert sample.mask[: SIDE // 2].all()
    assert not sample.mask[SIDE // 2 :].any()
    assert next(iter(open_dataset(tmp_path, INPUT, HOW))).mask is None


def image_of(kind: str) -> Image.Image:
    """A mask, or a picture with or without transparency, of which nothing or everything is object but for "half"."""
    whole = {"all": 255, "nothing": 0, "grey": 90, "half": 255}[kind.removeprefix("clear ")]
    values = np.full((20, 20), whole, np.uint8)
    if kind.endswith("half"):
        values[10:] = 0
    if kind.startswith("clear "):
        return Image.fromarray(np.dstack([np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8), values]))
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("how", "kind", "why"),
    [
        ("alpha", "half", "has no transparency"),  # bright above, dark below: brightness is no mask
        ("alpha", "all", "has no transparency"),
        ("alpha", "clear all", "has no transparency"),
        ("alpha", "clear nothing", "calls nothing"),
        ("alpha", "clear grey", "calls nothing"),
        ("alpha", "clear half", ""),
        *(
            (how, kind, why)
            for how in ("folder", "table")
            for kind, why in (("all", "calls all"), ("nothing", "calls nothing"), ("half", ""))
        ),
        *(("folder", kind, why) for kind, why in (("clear nothing", "calls nothing"), ("clear half", ""))),
        *(("arrays", kind, why) for kind, why in (("all", "calls all"), ("nothing", "calls nothing"), ("half", ""))),
    ],
)
def test_a_mask_without_inside_or_outside_is_refused(tmp_path: Path, how: str, kind: str, why: str) -> None:
    """And what is no mask is never taken for one; ``why`` '' = a mask that is fine."""
    data, masks, image = tmp_path / "data", None, image_of(kind)
    (data / "images").mkdir(parents=True)
    (image if how == "alpha" else picture(0)).save(data / "images" / "a.png")
    if how == "alpha":
        data, masks = data / "images", "alpha"
    elif how == "folder":
        (data / "masks").mkdir()
        image.save(data / "masks" / "a.png")
    elif how == "table":
        image.save(data / "m.png")
        (data / "all.csv").write_text("file,mask\nimages/a.png,m.png\n")
    else:
        data = tmp_path / "a.npz"
        np.savez(data, x=np.zeros((1, 3, 20, 20)), masks=np.asarray(image)[None] > 127)
    found = open_dataset(data, INPUT, None if how == "arrays" else HOW, masks=masks)
    samples = list(found)
    assert len(samples) == (not why)
    assert [why in said for said in found.damaged.values()] == [True] * bool(why)
    if why:
        assert "a.png" in found.damaged["a.png"] if how in ("alpha", "folder") else found.damaged
    else:
        assert samples[0].mask[0].all()
        assert not samples[0].mask[-1].any()


@pytest.mark.parametrize("verb", ["evaluate", "audit"])
def test_alpha_masks_of_pictures_without_transparency_end_a_run(model: Path, folder: Path, verb: str) -> None:
    (folder / "images" / "bee" / "z.png").unlink()
    words = [verb, str(model), str(folder / "images"), "--masks", "alpha", "-m", "gradient", "-o", str(folder / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    assert "could be used:\nbee/a.png" in result.stderr
    assert "has no transparency, so it does not say where its object is. Give masks as files" in result.stderr


def test_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, SIDE, SIDE))
    x[2, 0, 0, 0] = np.nan
    np.savez(tmp_path / "a.npz", x=x, labels=np.array([0, 1, 2, -1]), masks=rng.random((4, SIDE, SIDE)) > 0.5)
    data = open_dataset(tmp_path / "a.npz", INPUT)
    assert (data.labelled, data.masked) == (3, 4)
    found = list(data)
    assert [s.label for s in found] == [0, 1, None]
    assert found[0].x.dtype == np.float32
    assert found[0].picture is None
    assert data.damaged == {"2": "sample '2' holds NaN or infinite values."}
    np.save(tmp_path / "bytes.npy", rng.integers(0, 255, (2, 20, 24, 3), np.uint8))
    data = open_dataset(tmp_path / "bytes.npy", INPUT, HOW)
    assert next(iter(data)).x.shape == (1, 3, SIDE, SIDE)
    assert "taken as pictures" in data.notes[0]
    for wrong, message in (
        ({"labels": np.zeros(3, int)}, "do not belong to 4"),
        ({"labels": np.zeros(4)}, "integers"),
        ({"y2": x}, "name one of them"),
    ):
        np.savez(tmp_path / "wrong.npz", a=x, **wrong)
        with pytest.raises(InputError, match=message):
            open_dataset(tmp_path / "wrong.npz", INPUT)
    with pytest.raises(InputError, match="is not there"):
        open_dataset(tmp_path / "none.npy", INPUT)


# ----- maps that know nothing -----


def test_baselines() -> None:
    x = np.zeros((2, 3, 8, 12), np.float32)
    x[:, :, :, 6:] = 1
    x[1] *= 2
    places = InputPlaces((8, 12), 1)
    centre = baseline_maps("centre", x, places)
    assert centre.shape == (2, 8, 12)
    assert np.argwhere(centre[0] == centre[0].max()).tolist() == [[3, 5], [3, 6], [4, 5], [4, 6]]
    assert centre[0, 0, 0] == centre[0].min() == 0
    edges = baseline_maps("edges", x, places)
    assert (edges[0][:, 5:7] > 0.5).all()
    assert (np.delete(edges[0], [5, 6], 1) == 0).all()
    noise = baseline_maps("random", x, places)
    assert (noise[0] != noise[1]).all()
    assert np.array_equal(noise[1], baseline_maps("random", x[1:], places)[0])
    assert not np.array_equal(noise, baseline_maps("random", x, places, seed=1))
    with pytest.raises(InputError, match="for pictures"):
        baseline_maps("edges", np.zeros((1, 4), np.float32), InputPlaces((4,), None))


# ----- numbers -----


@pytest.mark.filterwarnings("ignore::onnxsal.metrics.ranking.TieWarning")
def test_every_number_is_the_metrics_own(model: Path, folder: Path) -> None:
    metrics = (
        "insertion",
        "deletion",
        "id_score",
        "pixel_perturbation",
        "occlusion_correlation",
        "pointing_game",
        "relevance_mass",
        "relevance_rank",
    )
    settings = Settings(step=32, percent=(5, 50), seed=3)
    found = measured(model, folder, ["fullgrad"], metrics, settings=settings)
    data = open_dataset(folder, INPUT, HOW, CLASSES)
    samples = list(data)
    assert found.samples == tuple(s.name for s in samples)
    x = np.concatenate([s.x for s in samples])
    scorer, explainer = Scorer(model), onnxsal.Explainer(model, "fullgrad")
    whole = explainer.explain(x)
    places = scorer.places(x)
    for name in ("fullgrad", *BASELINES):
        maps = whole.saliency_map if name == "fullgrad" else baseline_maps(name, x, places, 3)
        down = faithfulness.deletion(scorer, x, maps, step=32, seed=3)
        up = faithfulness.insertion(scorer, x, maps, step=32, seed=3)
        near = faithfulness.pixel_perturbation(scorer, x, maps, percent=(5, 50), black=HOW.black(), seed=3)
        hidden = faithfulness.occlusion_correlation(scorer, x, maps, absolute=True)  # none of these has signs
        same = {
            "deletion": down.auc,
            "insertion": up.auc,
            "id_score": up.auc - down.auc,
            "least_logit": near.least_logit.mean(1),
            "most_probability": near.most_probability.mean(1),
            "occlusion_spearman": hidden.spearman,
        }
        for column, value in same.items():
            assert found.values(name, column) == pytest.approx(value, rel=1e-4, abs=1e-6), (name, column)
        masked = [i for i, s in enumerate(samples) if s.mask is not None]
        masks = np.stack([samples[i].mask for i in masked])
        pointed = localisation.pointing_game(maps[masked], masks)
        assert found.values(name, "pointing_game")[masked] == pytest.approx(pointed.value)
        assert np.isnan(np.delete(found.values(name, "relevance_mass"), masked)).all()
        assert found.reasons(name)["relevance_mass: no mask"] == 1
        axis, mean, n = found.curve(name, "deletion")
        assert n == len(x)
        assert axis == pytest.approx(down.pixels / SIDE**2)
        assert mean == pytest.approx(down.scores.mean(0), rel=1e-4)
        assert found.rows[name, found.samples[0]].target == whole.target[0]


def test_means_and_differences_are_paired(model: Path, folder: Path) -> None:
    found = measured(model, folder, ["gradient", "input_x_gradient"], ("deletion", "residual"))
    a, b = found.values("gradient", "deletion"), found.values("random", "deletion")
    assert found.summary("gradient", "deletion").mean == pytest.approx(a.mean())
    assert found.difference("gradient", "random", "deletion") == paired(a, b, resamples=1999)
    means = {name: found.values(name, "deletion").mean() for name in BASELINES}
    assert found.best_baseline("deletion") == min(means, key=means.get)
    assert [w.name for w in found.ways] == ["gradient", "input_x_gradient", *BASELINES]
    assert not any(found.has(w.name, "residual") for w in found.ways)  # neither has a law, and no baseline has


def test_what_a_metric_needs_is_said_before_it_starts(model: Path, folder: Path, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="pointing_game: the data have no masks"):
        measured(model, tmp_path / "one.png", metrics=["pointing_game"])
    with pytest.raises(InputError, match="target 'label' needs labels"):
        measured(model, tmp_path / "one.png", target="label")
    with pytest.raises(InputError, match="'keio' scores the labelled class"):
        measured(model, tmp_path / "one.png", settings=Settings(protocol="keio"))
    np.save(tmp_path / "x.npy", np.zeros((1, 3, SIDE, SIDE), np.float32))
    with pytest.raises(InputError, match="nobody knows their value"):
        evaluate(onnx.load(model), tmp_path / "x.npy", ["gradient"], ["pixel_perturbation"])  # of a file it lies beside it
    with pytest.raises(InputError, match=r"metric 'deletoin' is not one of .*did you mean 'deletion'"):
        measured(model, folder, metrics=["deletoin"])
    with pytest.raises(InputError, match=r"ties 'randm' is not one of"):
        Settings(ties="randm")


def test_the_label_is_explained_where_asked_and_scored_by_keio(model: Path, folder: Path) -> None:
    found = measured(model, folder, target="label")
    assert [found.rows["gradient", s].target for s in found.samples] == [1, 1, 3, 3, 3]
    keio = measured(model, folder, settings=Settings(protocol="keio", step=64))
    x = np.concatenate([s.x for s in open_dataset(folder, INPUT, HOW, CLASSES)])
    maps = onnxsal.Explainer(model, "gradient").explain(x).saliency_map
    own = faithfulness.deletion(Scorer(model), x, maps, np.array([1, 1, 3, 3, 3]), protocol="keio", step=64, black=HOW.black())
    assert keio.values("gradient", "deletion") == pytest.approx(own.auc, rel=1e-4)


def test_a_constant_map_has_no_value_and_a_reason(model: Path, folder: Path) -> None:
    Image.new("RGB", (20, 20), (9, 9, 9)).save(folder / "images" / "dog" / "flat.png")
    found = measured(model, folder)
    at = found.samples.index("dog/flat.png")
    assert np.isnan(found.values("edges", "deletion")[at])
    assert found.reasons("edges") == {"deletion: the map is constant, so it ranks nothing": 1}
    assert (found.summary("edges", "deletion").n, found.summary("edges", "deletion").excluded) == (5, 1)
    assert found.ties("centre")[0] == 1


def test_a_sample_that_the_model_fails_on_costs_no_other(tmp_path: Path) -> None:
    """The model's logarithm is NaN on one sample: it is told, the others keep their numbers, and the next run tries it again."""
    model = make(
        [node("Log", "x", "l"), node("Flatten", "l", "f"), node("MatMul", "f w", "y")],
        {"x": ["N", 3, 4, 4]},
        {"y": ["N", 5]},
        {"w": np.random.default_rng(0).standard_normal((48, 5)).astype(np.float32)},
    )
    x = np.random.default_rng(1).random((4, 3, 4, 4)).astype(np.float32) + 0.5
    x[1, 0, 0, 0] = -1
    np.save(tmp_path / "x.npy", x)
    settings = Settings(step=4, substrate="mean", removal="mean")
    found = evaluate(model, tmp_path / "x.npy", ["gradient"], ["deletion"], settings, state=tmp_path / "s.jsonl")
    assert np.isnan(found.values("gradient", "deletion")).tolist() == [False, True, False, False]
    assert "NaN" in found.rows["gradient", "1"].flags["deletion"]
    again = evaluate(model, tmp_path / "x.npy", ["gradient"], ["deletion"], settings, state=tmp_path / "s.jsonl")
    assert again.values("gradient", "deletion") == pytest.approx(found.values("gradient", "deletion"), nan_ok=True, abs=0)
    assert "NaN" in again.rows["gradient", "1"].flags["deletion"]


def test_refused_methods_are_listed_and_stop_nothing(model: Path, folder: Path) -> None:
    found = measured(model, folder, ["gradient", "patternnet"])
    assert list(found.refused) == ["patternnet"]
    assert [w.name for w in found.ways] == ["gradient", *BASELINES]
    with pytest.raises(PlanError, match="no method can explain this model:\npatternnet"):
        measured(model, folder, ["patternnet"])
    with pytest.raises(MethodError, match="two have one name"):
        measured(model, folder, ["gradient", Way("random", "gradcam")])


def test_inputs_that_are_no_pictures_have_one_baseline(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = make([node("MatMul", "x w", "y")], {"x": ["N", 12]}, {"y": ["N", 3]}, {"w": rng.standard_normal((12, 3)).astype(np.float32)})
    np.save(tmp_path / "x.npy", rng.standard_normal((3, 12)).astype(np.float32))
    settings = Settings(step=1, substrate="zero_norm")
    found = evaluate(model, tmp_path / "x.npy", ["input_x_gradient"], ["insertion", "deletion", "id_score"], settings)
    assert [w.name for w in found.ways] == ["input_x_gradient", "random"]
    assert found.summary("input_x_gradient", "id_score").mean > found.summary("random", "id_score").mean


# ----- resuming -----


def numbers(found: Evaluation) -> dict[tuple[str, str], list[float | None]]:
    return {(w.name, c): [None if np.isnan(v) else float(v) for v in found.values(w.name, c)] for w in found.ways for c in found.columns}


def test_what_is_done_is_not_done_again(model: Path, folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    first = measured(model, folder, state=state)
    assert first.facts["measured_now"] == 4 * 5
    same = measured(model, folder, state=state)
    assert same.facts["measured_now"] == 0
    assert numbers(same) == numbers(first)
    assert same.damaged.keys() == first.damaged.keys() == {"bee/z.png"}
    more = measured(model, folder, ["gradient", "gradcam"], ("deletion", "insertion"), state=state)
    assert more.facts["measured_now"] == 5 * (2 + 4)  # gradcam, and insertion
    assert numbers(more)["gradient", "deletion"] == numbers(first)["gradient", "deletion"]
    picture(99).save(folder / "images" / "bee" / "a.png")
    changed = measured(model, folder, state=state)
    assert changed.facts["measured_now"] > 0
    assert changed.values("gradient", "deletion")[0] != first.values("gradient", "deletion")[0]
    assert measured(model, folder, state=state, settings=Settings(step=65)).facts["measured_now"] == 20
    assert measured(model, folder, [Way("gradient", "gradient", {"reduce": "sum_abs"})], state=state).facts["measured_now"] == 5


def test_a_torn_line_is_measured_again(model: Path, folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    whole = measured(model, folder, state=state)
    text = state.read_bytes()
    state.write_bytes(text[:-30])
    again = measured(model, folder, state=state)
    assert 0 < again.facts["measured_now"] <= CHUNK
    assert numbers(again) == numbers(whole)
    lines = state.read_bytes().splitlines()
    state.write_bytes(b"\n".join([lines[0], b"nonsense", *lines[2:]]) + b"\n")
    with pytest.raises(InputError, match="line 2 is damaged"):
        measured(model, folder, state=state)


def test_an_interrupted_run_ends_with_the_same_numbers(model: Path, folder: Path, tmp_path: Path) -> None:
    whole = numbers(measured(model, folder, ["gradient", "gradcam"]))
    calls = 0

    def stop(done: int, total: int | None) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(model, folder, ["gradient", "gradcam"], state=tmp_path / "s.jsonl", progress=stop)
    rest = measured(model, folder, ["gradient", "gradcam"], state=tmp_path / "s.jsonl")
    assert 0 < rest.facts["measured_now"] < 5 * 5
    assert numbers(rest) == whole


def test_killed_and_started_again(model: Path, folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the command; the second run measures only the rest and writes the same numbers."""
    for number in range(20):
        picture(100 + number).save(folder / "images" / "dog" / f"more{number:02}.png")
    words = [
        "evaluate",
        model,
        folder,
        "-m",
        "gradient,fullgrad,integrated_gradients",
        "--metrics",
        "deletion,pixel_perturbation",
        "--step",
        4,
    ]
    command = [sys.executable, "-c", "from onnxsal.cli.app import main; main()", *map(str, words), "-o", str(tmp_path / "killed")]
    state = tmp_path / "killed" / "state.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (not state.exists() or state.stat().st_size < 12_000) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert not (tmp_path / "killed" / "samples.csv").exists()
    whole = [json.loads(line) for line in state.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    done = sum("values" in line for line in whole)
    assert done
    facts = [command_line(*words, "-o", tmp_path / name) for name in ("killed", "unbroken")]
    left = facts[1]["measured_now"] - done
    assert left <= facts[0]["measured_now"] <= left + CHUNK
    for name in ("samples.csv", "summary.csv", "differences.csv", "curves.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_one_run_at_a_time_writes_a_state(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    one, two = Record(tmp_path / "s.jsonl"), Record(tmp_path / "s.jsonl")
    with one.alone():
        with pytest.raises(InputError, match="another run is writing"), two.alone():
            pass
        one.put([{"key": "k", "sample": "s", "digest": "d", "value": float("nan"), "other": np.float32(0.1)}])
    with two.alone():
        assert two.get("k", "s", "d") == {"key": "k", "sample": "s", "digest": "d", "value": None, "other": float(np.float32(0.1))}
        assert two.get("k", "s", "changed") is None


# ----- the command -----


def run(*args: object):
    return CliRunner().invoke(app, [str(a) for a in args])


def command_line(*args: object) -> dict:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_command_writes_tables_curves_and_json(model: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("evaluate", model, folder, "-m", "gradient,ig:n_steps=3", "--step", 64, "-o", out)
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    for word in (
        "deletion",
        "id_score",
        "smaller is better",
        "gradient",
        "integrated_gradients:n_steps=3",
        "(random)",
        "(centre)",
        "(edges)",
        "minus ",
    ):
        assert word in result.stdout, word
    assert "left out: bee/z.png" in result.stderr
    assert "5 samples, 6 labelled, 4 with masks" in result.stdout
    with (out / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 5
    assert {"method", "sample", "target", "label", "deletion", "tied", "flags"} <= rows[0].keys()
    facts = command_line(*words)
    assert facts["measured_now"] == 0
    assert facts == json.loads((out / "evaluation.json").read_text())
    assert facts["settings"]["step"] == 64
    assert list(facts["damaged"]) == ["bee/z.png"]
    for row in facts["summary"]:
        own = [float(r[row["metric"]]) for r in rows if r["method"] == row["method"]]
        assert row["mean"] == pytest.approx(np.mean(own))
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["n"] == 5
    assert len([d for d in facts["differences"] if d["metric"] == "deletion"]) == 10
    for name in ("deletion", "insertion", "least_probability"):
        assert Image.open(out / f"{name}.png").width > 500


def test_every_sample_as_parquet(model: Path, folder: Path, tmp_path: Path) -> None:
    """What the CSV says, in types that do not depend on what was found: no number is null, never NaN."""
    parquet = pytest.importorskip("pyarrow.parquet")
    Image.new("RGB", (20, 20), (9, 9, 9)).save(folder / "images" / "dog" / "flat.png")  # a constant map: no value
    out = tmp_path / "out"
    facts = command_line("evaluate", model, folder, "-m", "gradient", "--metrics", "deletion,pointing_game", "--step", 64, "-o", out)
    assert facts["files"]["samples_parquet"] == str(out / "samples.parquet")
    table = parquet.read_table(out / "samples.parquet")
    with (out / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert table.column_names == list(rows[0])
    types = {f.name: str(f.type) for f in table.schema}
    assert types["sample"] == types["flags"] == "string"
    assert types["target"] == types["label"] == types["distinct"] == "int64"
    assert types["deletion"] == types["pointing_game"] == types["tied"] == "double"
    told = table.to_pylist()
    assert len(told) == len(rows) == 4 * 6
    for line, row in zip(told, rows, strict=True):
        assert {k: "" if v is None else str(v) for k, v in line.items()} == row
    missing = [line for line in told if line["deletion"] is None]
    assert {(line["method"], line["sample"]) for line in missing} == {("edges", "dog/flat.png")}
    assert table.column("pointing_game").null_count > 0


def test_without_pyarrow_there_is_no_parquet(model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    facts = command_line("evaluate", model, folder, "-m", "gradient", "--metrics", "deletion", "--step", 64, "-o", tmp_path / "out")
    assert "samples_parquet" not in facts["files"]
    assert not (tmp_path / "out" / "samples.parquet").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "gradiant"], "gradiant"),
        (["-m", "gradient:n_step=3"], "has no parameter 'n_step'"),
        (["-m", ","], "no method was named"),
        (["--metrics", "deletoin"], "did you mean 'deletion'"),
        (["--ties", "none"], "ties 'none' is not one of"),
        (["--target", "wolf"], "wolf"),
        (["--masks", "nowhere"], "are no folder"),
    ],
)
def test_mistakes_end_in_one_message(model: Path, folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    result = run("evaluate", model, folder, *words, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "samples.csv").exists()


def test_methods_with_parameters() -> None:
    ways = chosen_ways("fullgrad, ig:n_steps=20:rule=trapezoid,lrp_resnet:quantize=8")
    assert [w.name for w in ways] == ["fullgrad", "integrated_gradients:n_steps=20:rule=trapezoid", "lrp_resnet:quantize=8"]
    assert ways[1].parameters == {"n_steps": 20, "rule": "trapezoid"}
    assert len(chosen_ways("all")) == len(onnxsal.methods())


def test_every_metric_says_what_it_gives(model: Path, folder: Path) -> None:
    """The columns that are declared are those that are found, for a method that has all of them: a law, and a score that it divides up."""
    found = measured(model, folder, ["lrp_epsilon"], list(MEASURES), settings=Settings(step=64, percent=(10, 50), stages=2))
    row = found.rows["lrp_epsilon", found.samples[0]]
    assert row.values.keys() == {c for m in MEASURES.values() for c in m.columns}
    assert set(row.curves) == {c for m in MEASURES.values() for c in m.curves}
    assert row.values["residual"] < 1e-3
    assert not found.has("random", "randomised_spearman")
    assert not found.has("random", "reached")
    assert [m.name for m in chosen_measures(["id_score"])] == ["insertion", "deletion", "id_score"]


def test_the_noise_of_the_reproduction_is_quantised_as_maps_are(model: Path) -> None:
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "tools" / "reproduce.py")
    reproduce = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reproduce)
    x = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    plain, floored = (onnxsal.Explainer(model, "gradient", **q).explain(x).saliency_map for q in ({}, {"quantize": reproduce.LEVELS}))
    assert reproduce.quantised(plain.astype(np.float64)) == pytest.approx(floored, abs=1e-5)
    assert len(np.unique(floored[0])) <= reproduce.LEVELS
    assert reproduce.table(["a", "b"], [["1", "2"]]).splitlines() == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]

"""An audit of a sample of a large population, made from a small one: samples again and again, and what is said of all data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from onnxsal.ask.request import Ask
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.record import packed
from onnxsal.report.audit import Audit, ClassRow, Duplicates, MapCluster, Population, Reason, Request, Statistic
from onnxsal.report.audit.class_name import ClassName
from onnxsal.report.audit.map_notes import centre_picture
from onnxsal.runtime.preprocess_files import load_preprocess
from tests import audit_nets as nets
from tests.small_models import cnn

HOSTILE = "<script>alert(1)</script>\"'&.png"
"""An id that would do harm unescaped."""


WAYS = ("fullgrad", "gradient")


def request(folder: Path, count: int = 20) -> Request:
    """A small untrained network on noise, with labels."""
    model = folder / "net.onnx"
    onnx.save(cnn(size=nets.SIDE), model)
    nets.preprocessing(model)
    pictures = np.random.default_rng(0).integers(0, 255, (count, 6, 6, 3), np.uint8)
    large = np.stack([np.asarray(Image.fromarray(p).resize((nets.SIDE, nets.SIDE))) for p in pictures])
    nets.save_pictures(folder / "data", large, np.arange(count) % 5)
    how = load_preprocess(model.with_suffix(".toml"))
    return Request(Ask(model, preprocess=how), folder / "data", [Way(m, m) for m in WAYS], measured=4)


def spot(row: int, column: int, signed: bool = False) -> np.ndarray:
    """A centre of small maps with its weight around one place."""
    rows, columns = np.mgrid[:16, :16]
    found = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 18.0)
    return found - np.exp(-((rows - 15 + row) ** 2 + (columns - 15 + column) ** 2) / 18.0) if signed else found


def repeated(found: Audit, count: int) -> Audit:
    """The samples of an audit again and again, under other names."""
    originals = list(islice(cycle(found.document.pictures), count))
    names = [f"{i:05d}/{p.name}" for i, p in enumerate(originals)]
    samples = [replace(p, name=name) for p, name in zip(originals, names, strict=True)]
    old = {name: p.name for name, p in zip(names, originals, strict=True)}
    ways = [m.name for m in found.document.methods]
    document = replace(found.document, pictures=samples, data=replace(found.document.data, pictures=count))
    pictures = {name: found.pictures[before] for name, before in old.items() if before in found.pictures}
    maps = {(way, name): found.maps[way, before] for way in ways for name, before in old.items() if (way, before) in found.maps}
    return replace(found, document=document, pictures=pictures, maps=maps, other_maps={})


def population_of(samples: Sequence[str], ways: Sequence[str], **more: Any) -> Population:
    """What may be known of all data of which these ``samples`` are audited: three clusters by each method, ids that would do harm."""
    number_of = {name: i % 3 for i, name in enumerate(samples)}
    centres = [spot(4, 4), spot(11, 8, signed=True), spot(13, 13)]
    clusters = [
        MapCluster(
            way, k, 310_000 + 1000 * k + i, 0.31 + k / 100, centre_picture(centres[k]), [n for n in number_of if number_of[n] == k][:6]
        )
        for i, way in enumerate(ways)
        for k in range(3)
    ]
    names = [("", "probability", "probability of the first answer"), *((w, "reached", "share of the score that arrives") for w in ways)]
    statistics = [
        Statistic(
            way=way,
            name=name,
            title=title,
            n=987_100 + i,
            mean=i + 0.502,
            low=i + 0.493,
            high=i + 0.514,
            std=i + 0.115,
            minimum=i + 0.016,
            minimum_id=samples[i],
            q01=i + 0.027,
            median=i + 0.538,
            q99=i + 0.949,
            maximum=i + 0.961,
            maximum_id=f"far/{HOSTILE}{i}",
        )
        for i, (way, name, title) in enumerate(names)
    ]
    classes = [ClassRow(ClassName(i, f"kind {i}" if i % 2 else None), 20_011 - 31 * i, 19_973 - 17 * i, 15_007 - 13 * i) for i in range(70)]
    known: dict[str, Any] = {
        "total": 1_234_567,
        "explained": 987_654,
        "damaged": 2_468,
        "reasons": [Reason("no picture <b>", 2_345, f"bad/{HOSTILE}"), Reason("cut off", 123, "bad/cut.png")],
        "duplicates": Duplicates(4_321, 0.00437, [("first.png", f"second/{HOSTILE}")]),
        "stale": ["a1b2c3 <i>", "d4e5f6"],
        "missing": 244_445,
        "seed": 97,
        "sample": "those with the smallest hashes, class by class",
        "statistics": statistics,
        "classes": classes,
        "clusters": clusters,
        "cluster_of": dict.fromkeys(ways, number_of),
    }
    return Population(**{**known, **more})


def with_population(found: Audit, **more: Any) -> Audit:
    """An audit as one of a sample of a population."""
    document = found.document
    population = population_of([p.name for p in document.pictures], [m.name for m in document.methods], **more)
    document = replace(document, population=population)
    return replace(found, document=document, facts=packed(asdict(document)))

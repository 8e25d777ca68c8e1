"""A table with numbers, gaps and names, and the pipelines of scikit-learn that are fed with it."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMBERS, NAMES = ["age", "income"], ["colour", "city"]


def frame(count: int = 60, seed: int = 0) -> pd.DataFrame:
    """Rows whose class follows from age and colour; an income is missing here and there."""
    rng = np.random.default_rng(seed)
    made = pd.DataFrame(
        {
            "id": [f"person {i}" for i in range(count)],
            "age": rng.integers(18, 80, count).astype(np.float32),
            "income": rng.normal(30, 10, count).astype(np.float32),
            "colour": rng.choice(["red", "blue", "green"], count),
            "city": rng.choice(["Rome", "Oslo"], count),
        }
    )
    made.loc[::7, "income"] = np.nan
    made["label"] = ((made.age > 50) ^ (made.colour == "red")).astype(np.int64)
    return made


@functools.cache
def pipeline(trees: bool = False) -> Pipeline:
    """Gaps filled, numbers scaled, names one-hot, and a classifier."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    steps = [("names", OneHotEncoder(handle_unknown="ignore"), NAMES), ("numbers", numbers, NUMBERS)]
    last = RandomForestClassifier(4, max_depth=3, random_state=0) if trees else LogisticRegression()
    given = frame()
    return make_pipeline(ColumnTransformer(steps), last).fit(given[NUMBERS + NAMES], given.label)


@functools.cache
def exported(trees: bool = False) -> onnx.ModelProto:
    """The pipeline as skl2onnx writes it: an input for each column."""
    return to_onnx(pipeline(trees), frame()[:1][NUMBERS + NAMES], options={"zipmap": False})


def written(folder: Path, trees: bool = False) -> Path:
    """The model as a file."""
    path = folder / "credit.onnx"
    onnx.save(exported(trees), path)
    return path

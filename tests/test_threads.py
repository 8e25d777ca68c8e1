"""How many threads a run takes is asked for like a provider, and reaches every session."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxsal
from onnxsal.ask.request import Ask
from onnxsal.errors import InputError
from onnxsal.metrics.scorer import Scorer
from tests.small_models import cnn, draw


def threads_of(session: Any) -> int:
    return int(session._session.get_session_options().intra_op_num_threads)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_a_session_has_the_threads_that_were_asked_for(threads: int | None):
    wanted = threads or 0  # 0: as many as there are cores
    assert threads_of(onnxsal.Explainer(cnn(), "gradient", threads=threads).session) == wanted
    assert threads_of(Scorer.of(Ask.of(cnn(), threads=threads)).session) == wanted


def test_a_converted_file_is_opened_with_them_and_without_its_source(tmp_path: Any):
    """Nothing but the converted file is there any more."""
    import onnx

    onnx.save(onnxsal.convert(cnn(), "gradient"), tmp_path / "x.onnx")
    explainer = onnxsal.Explainer(tmp_path / "x.onnx", threads=1)
    assert threads_of(explainer.session) == 1
    x = draw(3, 3, 8, 8)
    plain = onnxsal.Explainer(cnn(), "gradient", threads=1).explain(x)
    assert np.array_equal(explainer.explain(x).attribution, plain.attribution)
    assert threads_of(explainer.on(cnn()).session) == 1


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_what_is_no_number_of_threads(threads: Any):
    with pytest.raises(InputError, match="is not a number of threads"):
        onnxsal.Explainer(cnn(), "gradient", threads=threads)

"""Commands on files that are spoilt at random, a few hundred of them; ``tools/fuzz.py`` runs them by the hour."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from onnxsal.facade import inspect
from tests.fuzz.bases import residual
from tests.fuzz.cases import Case, drawn
from tests.fuzz.judge import fault_of, is_ours
from tests.fuzz.reduce import reduced

FOUND = Path(__file__).parent / "found"
SEED, EACH, PARTS = 1, 10, 10


@pytest.mark.parametrize("part", range(PARTS))
def test_commands_on_spoilt_files_end_as_they_should(part: int) -> None:
    for seed in range(SEED + part * EACH, SEED + (part + 1) * EACH):
        fault = fault_of(drawn(seed))
        assert not is_ours(fault), f"{fault}: tools/fuzz.py --seed {seed} keeps and reduces it"


@pytest.mark.parametrize("name", sorted(p.name for p in FOUND.glob("*.json")))
def test_what_was_found_once_does_not_come_back(name: str) -> None:
    assert not is_ours(fault_of(Case.read(FOUND / name)))


def test_a_number_draws_the_same_case_each_time() -> None:
    assert all(drawn(seed) == drawn(seed) for seed in range(40))
    assert {drawn(seed).kind for seed in range(200)} == {"message", "bytes", "apart", "settings", "metadata", "rules", "table", "data"}


PLANTED = {
    "status 3": lambda: 1 // 0,
    "status -9": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "no JSON": lambda: print('{"a": NaN}'),
    "control characters": lambda: print("{}\x1b[2J"),
    "left behind": lambda: Path("left.txt").touch(),
    "not one message": lambda: sys.exit(2),
    "traceback": lambda: print("Traceback (most recent call last)"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_bad_end_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind, planted in a command that ends well."""
    case = Case("planted", {}, ("ops", "Relu", "--json"))
    assert fault_of(case) == ""
    known = inspect.ops()
    monkeypatch.setattr(inspect, "ops", lambda: PLANTED[fault]() or known)
    assert fault_of(case).startswith(fault)


def test_a_case_is_reduced_to_what_the_fault_needs(tmp_path: Path) -> None:
    case = Case("message", {"m.onnx": residual().SerializeToString(), "beside.txt": b"1"}, ("check", "m.onnx"))
    small = reduced(case, lambda c: b"Reshape" in c.files.get("m.onnx", b""), seconds=10)
    assert list(small.files) == ["m.onnx"]
    assert len(small.files["m.onnx"]) < 20
    (tmp_path / "kept.json").write_text(small.kept("why"))
    assert Case.read(tmp_path / "kept.json") == small

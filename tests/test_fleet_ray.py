"""Work by the shard on Ray: what is asked of a cluster, workers that fail in every way, and what is left of a Ray afterwards.

They join one small Ray, which the first of them starts. Those of a private Ray: test_fleet_ray_private.py.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

import onnxsal.fleet.joined
import onnxsal.fleet.ray
from onnxsal.errors import InputError, OnnxsalError, ProviderError
from onnxsal.fleet.cluster import LEAST_STORE, Cluster, placed, store_bytes
from onnxsal.fleet.joined import NO_IDLE, SPARED, joined
from onnxsal.fleet.ray import RemoteWorker, on_ray
from tests.ray_stand_ins import Decoding, Opened, Receipt, Shard, shards

ROOT = Path(__file__).parent.parent


def did(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "did").read_text().splitlines()]


# ----- what is asked, without Ray -----


@pytest.mark.parametrize(
    ("cluster", "machines", "most", "workers"),
    [
        (Cluster(), [{"CPU": 4}], None, 4),
        (Cluster(), [{"CPU": 4}], 3, 3),
        (Cluster(workers=2), [{"CPU": 4}], None, 2),
        (Cluster(workers=9), [{"CPU": 4}], 3, 3),
        (Cluster(cpus_per_worker=0.1), [{"CPU": 0.3}], None, 3),
        (Cluster(cpus_per_worker=3), [{"CPU": 4}, {"CPU": 5}], None, 2),
        (Cluster(gpus_per_worker=1), [{"CPU": 16, "GPU": 2}, {"CPU": 8}], None, 2),
        (Cluster(gpus_per_worker=0.5), [{"CPU": 16, "GPU": 2}, {"CPU": 1, "GPU": 1}], None, 5),
        (Cluster(gpus_per_worker=1, decode_workers=3), [{"CPU": 4, "GPU": 4}], None, 1),
        (Cluster(decode_workers=3), [{"CPU": 4}], None, 1),
        (Cluster(workers=9, grows=True), [{"CPU": 4}], None, 9),
        (Cluster(gpus_per_worker=1, grows=True), [{"CPU": 4}], None, 1),
    ],
)
def test_as_many_workers_are_started_as_fit(cluster: Cluster, machines: list[dict[str, float]], most: int | None, workers: int):
    assert placed(cluster, machines, most) == workers


@pytest.mark.parametrize(
    ("cluster", "machines", "message"),
    [
        (Cluster(workers=5), [{"CPU": 4}], r"5 workers with 1 CPU each. There is room for 4: 1 machine with 4 CPUs and 0 GPUs"),
        (Cluster(workers=4, decode_workers=1), [{"CPU": 4}], r"each, and 1 CPU for decoding. There is room for 3"),
        (
            Cluster(gpus_per_worker=2),
            [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}],
            r"1 CPU and 2 GPUs each. There is room for 0: 2 machines",
        ),
        (Cluster(cpus_per_worker=3), [{"CPU": 2}, {"CPU": 2}], r"1 worker with 3 CPUs each. There is room for 0: 2 machines with 4 CPUs"),
        (Cluster(decode_workers=4), [{"CPU": 2}], r"4 CPUs for decoding. There is room for 0"),
        (Cluster(), [], r"1 worker with 1 CPU each. There is room for 0: 0 machines"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_asked_and_what_there_is(cluster: Cluster, machines: Any, message: str):
    with pytest.raises(InputError, match=message):
        placed(cluster, machines)


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"gpus_per_worker": -1}, {"cpus_per_worker": 0}, {"decode_workers": -1}, {"patience": float("nan")}]
)
def test_a_cluster_that_makes_no_sense_is_refused(wrong: dict[str, Any]):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Cluster(**wrong)


def test_the_store_fits_the_shared_memory():
    assert store_bytes(512 << 20, None) == store_bytes(512 << 20, 1 << 40) == 512 << 20
    assert store_bytes(512 << 20, 200 << 20) == 180 << 20
    assert store_bytes(512 << 20, 64 << 20) == LEAST_STORE


def test_a_worker_that_wants_to_exit_is_at_fault(tmp_path: Path):
    """To Ray it would be one that has done its duty."""
    remote = RemoteWorker()
    assert remote.do(Shard("s0").as_dict()) is None
    remote.open(Opened(tmp_path, slow=0), Shard.of)
    with pytest.raises(RuntimeError, match="wanted to exit with status 3"):
        remote.do(Shard("s0", "exit").as_dict())
    assert remote.do(Shard("s0").as_dict()) == (asdict(Receipt("s0", 10, 0, 0)), [])


def test_nothing_to_do_needs_no_ray():
    assert on_ray(Opened(Path("/nowhere")), [], Cluster(), print, Receipt) == []


def marked(mark: str) -> list[int]:
    """Processes that were started with this in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
    return found


def until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_is_imported_is_heard_afterwards(monkeypatch: pytest.MonkeyPatch, number: int):
    """Half a module would be left behind, which says nothing that is true."""
    imported, before = [], {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}[number]
    outer = signal.signal(number, before)  # who runs tests in the background has SIGINT ignored

    def importing(name: str) -> Any:
        if not imported:
            os.kill(os.getpid(), number)
        imported.append(name)
        return MagicMock()

    monkeypatch.setattr(onnxsal.fleet.joined, "library", importing)
    try:
        with pytest.raises(KeyboardInterrupt), joined(Cluster()):
            pass
        assert signal.getsignal(number) == before
    finally:
        signal.signal(number, outer)
    assert set(imported) == {"ray._raylet"}
    assert "RAY_AUTH_TOKEN" not in os.environ


# ----- on a Ray that runs -----

HOST = """
import os, sys, ray
os.environ.update(RAY_USAGE_STATS_ENABLED="0")
for name in sys.argv[2:]:  # these take as long to start as all the rest
    setattr(ray._private.node.Node, name, lambda self, **asked: None)
kept = {"include_dashboard": False, "log_to_driver": False, "_temp_dir": sys.argv[1]}
ray.init(address="local", num_cpus=2, num_gpus=1, object_store_memory=512 << 20, **kept)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray with 2 CPUs and something that is counted as a GPU; it is there after every test."""
    token = {**NO_IDLE, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [sys.executable, "-c", HOST, str(tmp_path_factory.mktemp("r")), *SPARED]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **token}, text=True
        ) as host,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in token.items():
            patch.setenv(name, value)
        yield next(line.strip() for line in host.stdout if ":" in line)
        assert host.poll() is None
        host.stdin.close()


@pytest.mark.ray
def test_every_shard_is_done_once_and_told_as_it_comes(running: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    told: list[tuple[float, Receipt]] = []
    todo = shards(8, s3="warn", s5="warn")
    with pytest.warns(UserWarning, match="drawn without a seed") as caught:
        receipts = on_ray(Opened(tmp_path), todo, Cluster(running), lambda r: told.append((time.monotonic(), r)), Receipt)
    assert [r.shard for r in receipts] == [s.name for s in todo]
    assert sorted(did(tmp_path)) == sorted(s.name for s in todo)
    assert {r for _, r in told} == set(receipts)
    assert told[-1][0] - told[0][0] > 0.1
    assert len([w for w in caught if "seed" in str(w.message)]) == 1
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def here(running: str) -> Iterator[str]:
    """The same address, to which this process belongs already, as in a notebook: it stays so after every test."""
    with joined(Cluster(running)) as (ray, _):
        yield running
        assert ray.is_initialized()


@pytest.fixture
def two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process is what takes long here."""
    monkeypatch.setattr(onnxsal.fleet.ray, "TRIES", 2)


def no_worker_left() -> bool:
    """Whether the CPUs and the GPU are free again within some seconds."""
    import ray

    end = time.monotonic() + 20
    while time.monotonic() < end:
        free = ray.available_resources()
        if free.get("CPU") == 2 and free.get("GPU") == 1:
            return True
        time.sleep(0.1)
    return False


def workers_here() -> list[int]:
    """The processes of workers on the Ray of this file, by the titles that Ray gives them."""
    ours = marked(f"RAY_AUTH_TOKEN={os.environ['RAY_AUTH_TOKEN']}")
    with contextlib.suppress(OSError):
        return [pid for pid in ours if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::RemoteWorker")]
    return []


@pytest.mark.ray
@pytest.mark.usefixtures("two_tries")
def test_a_worker_that_dies_is_started_again_and_what_kills_it_is_given_up(here: str, tmp_path: Path):
    def told(receipt: Receipt) -> None:
        if receipt.shard == "s3":  # between two shards
            os.kill(int((tmp_path / "did").read_text().split()[-1]), signal.SIGKILL)
            until(lambda: not workers_here())
            until(workers_here)

    todo = shards(5, s1="segfault", s2="vanished")
    receipts = on_ray(Opened(tmp_path), todo, Cluster(here, workers=1), told, Receipt)
    assert [r.shard for r in receipts] == [s.name for s in todo]
    assert {r.shard: r.why.partition(":")[0] for r in receipts if r.why} == {
        "s1": "the process that worked on it died, at try 2",
        "s2": "it vanished",
    }
    assert {(r.rows, r.bad) for r in receipts} == {(10, 0)}
    assert {name: did(tmp_path).count(name) for name in ("s0", "s1", "s2", "s3", "s4")} == {"s0": 1, "s1": 2, "s2": 2, "s3": 1, "s4": 1}
    assert no_worker_left()


@pytest.mark.ray
def test_what_a_worker_raises_ends_the_run_once(here: str, tmp_path: Path):
    with pytest.raises(ZeroDivisionError, match=r"^a fault of ours\n") as caught:
        on_ray(Opened(tmp_path), shards(6, s1="fault"), Cluster(here, workers=1), lambda r: None, Receipt)
    assert did(tmp_path) == ["s0", "s1"]
    assert "in do\n" in caught.value.__notes__[0]
    assert no_worker_left()


@pytest.mark.ray
def test_who_is_told_may_stop_everything(here: str, tmp_path: Path):
    def told(receipt: Receipt) -> None:
        raise StopAsyncIteration(receipt.shard)

    with pytest.raises(StopAsyncIteration, match=r"^s0$"):
        on_ray(Opened(tmp_path), shards(6, s1="sleep"), Cluster(here, workers=1), told, Receipt)
    assert no_worker_left()


@pytest.mark.ray
@pytest.mark.parametrize(
    ("fails", "error", "message", "times"),
    [
        ("error", ProviderError, "^CUDAExecutionProvider was asked for and not obtained$", 1),
        ("crash", OnnxsalError, "died 2 times before it had opened.*1 worker with 0.5 CPUs each", 2),
    ],
)
@pytest.mark.usefixtures("two_tries")
def test_a_worker_that_cannot_open_ends_the_run(here: str, tmp_path: Path, fails: str, error: type, message: str, times: int):
    with pytest.raises(OnnxsalError, match=message) as caught:
        on_ray(Opened(tmp_path, fails), shards(6), Cluster(here, workers=1, cpus_per_worker=0.5), lambda r: None, Receipt)
    assert type(caught.value) is error
    assert len(list(tmp_path.glob("open-*"))) == times
    assert not (tmp_path / "did").exists()
    assert no_worker_left()


@pytest.mark.ray
def test_a_worker_has_its_gpu_and_more_than_there_are_is_refused_before_the_start(here: str, tmp_path: Path):
    receipts = on_ray(Opened(tmp_path), shards(3), Cluster(here, gpus_per_worker=1), lambda r: None, Receipt)
    assert len(receipts) == 3
    assert [p.read_text() for p in tmp_path.glob("open-*")] == ["0"]
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"2 workers with 1 CPU and 1 GPU each. There is room for 1: 1 machine with 2 CPUs and 1 GPU"):
        on_ray(Opened(tmp_path), shards(3), Cluster(here, workers=2, gpus_per_worker=1), lambda r: None, Receipt)
    assert time.monotonic() - begin < 5
    assert no_worker_left()


@pytest.mark.ray
def test_a_run_without_room_ends_instead_of_waiting_for_ever(here: str, tmp_path: Path):
    import ray

    other = ray.remote(num_cpus=2)(lambda: time.sleep(600)).remote()
    while ray.available_resources().get("CPU"):
        time.sleep(0.1)
    message = (
        r"no worker has started for 2 s. Ray was asked for 2 workers with 1 CPU each; .* 2 CPUs and 1 GPU, of which 0 CPUs and 1 GPU are"
    )
    with pytest.raises(InputError, match=message):
        on_ray(Opened(tmp_path), shards(3), Cluster(here, patience=2), lambda r: None, Receipt)
    ray.cancel(other, force=True)
    assert no_worker_left()


@pytest.mark.ray
@pytest.mark.usefixtures("two_tries")
def test_blocks_that_are_decoded_apart_stay_whole(here: str, tmp_path: Path):
    """What kills a worker, or the process that decodes, is done again, and given up; the rest is done once."""
    does = {"": 600, "kill": 512, "decoding kill": 600, "nothing": 0}
    todo = [Shard(f"s{i}", what, 0, rows) for i, (what, rows) in enumerate(does.items())]
    receipts = on_ray(Opened(tmp_path), todo, Cluster(here, workers=1, decode_workers=1), lambda r: None, Receipt, Decoding(tmp_path))
    assert [(r.shard, r.rows) for r in receipts if not r.why] == [
        *[("s0[0:256]", 256), ("s0[256:512]", 256), ("s0[512:600]", 88)],
        *[("s1[0:256]", 256), ("s2[0:256]", 256)],
    ]
    assert [(r.shard, r.rows, r.why.partition(":")[0]) for r in receipts if r.why] == [
        ("s1", 256, "the process that worked on its block 1 (256 rows) died, at try 2"),
        ("s2", 344, "the process that decoded it died 2 times, at block 1"),
        ("s3", 0, "decoding it gave no block"),
    ]
    lines = [line.split() for line in (tmp_path / "did").read_text().splitlines()]
    assert len(lines) == 5
    assert not {line[3] for line in lines} & {line[4] for line in lines}
    assert no_worker_left()


@pytest.mark.ray
def test_what_decoding_raises_ends_the_run(here: str, tmp_path: Path):
    cluster = Cluster(here, workers=1, decode_workers=1)
    with pytest.raises(ZeroDivisionError, match=r"^a fault of ours\n"):
        on_ray(Opened(tmp_path), [Shard("s0", "decoding fault", 0, 600)], cluster, lambda r: None, Receipt, Decoding(tmp_path))
    with pytest.raises(InputError, match=r"2 workers with 1 CPU each, and 1 CPU for decoding. There is room for 1"):
        on_ray(Opened(tmp_path), shards(1), replace(cluster, workers=2), lambda r: None, Receipt, Decoding(tmp_path))
    assert no_worker_left()


def test_an_address_where_nothing_answers_is_said_at_once():
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"no Ray answers at 127.0.0.1:9 \(.*refused"):
        on_ray(Opened(Path("/nowhere")), shards(1), Cluster("127.0.0.1:9"), print, Receipt)

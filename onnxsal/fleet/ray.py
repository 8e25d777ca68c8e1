"""Work by the shard on Ray: actors that each hold one worker, given one shard at a time.

Ray starts the processes, places them on CPUs and GPUs, starts them again when they die, and moves blocks that are decoded elsewhere.
Which shard goes to whom is decided here, and not by Ray Data: of that, a shard that kills its worker is retried without end, or, where
retries are limited, ends the whole run (measured with 2.60: 14 deaths in 70 s, and 10 of 11 good shards done; with 2 retries, none of
those that waited). What is asked of Ray here is its core: actors, tasks, generators.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from onnxsal.errors import InputError, OnnxsalError
from onnxsal.fleet.cluster import Cluster, has, placed
from onnxsal.fleet.joined import joined

if TYPE_CHECKING:
    from onnxsal.fleet.decoding import DecodedShard

__all__ = ["Cluster", "on_ray"]

log = logging.getLogger(__name__)

TRIES = 3
"""A shard that failed, or that a process died of, so many times is given up."""

OF_WHAT = ": out of memory, killed from outside, or a crash in a library"

Decode: TypeAlias = Callable[[dict[str, Any]], Iterator[dict[str, Any]]]
"""Decodes a shard (as a dict) block by block; the same blocks whenever it is called."""

R = TypeVar("R")


class _AnyShard(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...

    def as_dict(self) -> dict[str, Any]: ...


def on_ray(
    opened: Callable[[], Any],
    todo: Sequence[_AnyShard],
    cluster: Cluster,
    told: Callable[[R], None],
    receipt: Callable[..., R],
    decode: Decode | None = None,
) -> list[R]:
    """Work on every shard, each once, and return what is known of each: in the order of ``todo``, and of the blocks of a shard.

    - ``opened`` makes a worker in each process; it is pickled. Its ``do(shard)`` returns a dataclass whose fields ``receipt`` takes by
      name. With ``decode``, which runs on ``cluster.decode_workers`` CPUs of their own, ``do_block(block)`` is called instead, with exactly
      one decoded block, and returns one for each.
    - ``told`` hears of each as it comes; what it raises stops everything and comes out as it is.
    - A shard whose worker's process dies is done again, and so is one whose receipt has a ``why``. The third such receipt stands; after
      the third death it is ``receipt(shard=name, rows=..., bad=0, seconds=0.0, why=...)``. What a worker raises ends the run, and so
      does one that cannot open.

    Raises ``InputError`` where the workers do not fit the cluster, or none of them starts within ``cluster.patience`` seconds.
    """
    if not todo:
        return []
    if decode and not cluster.decode_workers:
        raise InputError("blocks that are decoded apart need CPUs to decode on: decode_workers=1 or more.")
    if decode and (cluster.address or "").startswith("ray://"):
        raise InputError("decoding apart does not work through ray://. Run this on a machine of the cluster, with address 'auto'.")
    with joined(cluster) as (ray, stopped):
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = placed(cluster, machines, None if decode else len(todo))
        run = _Run(ray, opened, todo, cluster, workers, told, receipt, decode)
        try:
            return run.all(stopped)
        finally:
            run.stop()


# ----- in the processes of the workers -----


class RemoteWorker:
    """One worker in a process of its own; with no arguments, so that Ray can start it again from nothing."""

    def __init__(self) -> None:
        self.worker: Any = None
        self.of: Callable[[dict[str, Any]], Any] = dict

    def here(self) -> str:
        """The version of onnxsal that this machine has."""
        return version("onnxsal")

    def open(self, opened: Callable[[], Any], of: Callable[[dict[str, Any]], Any]) -> Any:
        """Make the worker; ``of`` makes a shard of a dict. Returns nothing, and what was said meanwhile."""
        with _said() as said:
            self.worker, self.of = opened(), of
        return None, said

    def do(self, shard: dict[str, Any]) -> Any:
        """The receipt as a dict, and what was said; ``None`` in a process that was started anew since ``open``."""
        return self._worked(lambda: self.worker.do(self.of(shard)))

    def do_block(self, block: DecodedShard) -> Any:
        """The same for a block that was decoded elsewhere."""
        return self._worked(lambda: self.worker.do_block(block))

    def _worked(self, work: Callable[[], Any]) -> Any:
        if self.worker is None:
            return None
        with _said() as said:
            done = asdict(work())
        return done, said


@contextmanager
def _said() -> Iterator[list[tuple[Any, ...]]]:
    """What this process warns of and logs within the block, to be said where people see it: (class, text) or (logger, level, text)."""
    said: list[tuple[Any, ...]] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append((record.name, record.levelno, record.getMessage()))  # type: ignore[method-assign]
    logger = logging.getLogger("onnxsal")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield said
        said += dict.fromkeys((w.category, str(w.message)) for w in caught)
    except SystemExit as error:  # Ray would take it for a wish to end this process, and not start it again
        raise RuntimeError(f"the worker wanted to exit with status {error.code}") from error
    finally:
        logger.removeHandler(handler)


def decoded(decode: Decode, shard: dict[str, Any]) -> Iterator[Any]:
    """A word that the process is at work, then each block, followed by how many rows it has as its longest value tells."""
    yield True
    for block in decode(shard):
        yield block
        yield max((len(value) for value in block.values() if hasattr(value, "__len__") and not isinstance(value, str)), default=0)


# ----- in the process that gives out the work -----


@dataclass
class _Piece:
    """What a worker is given at a time: a shard, or a block of one."""

    order: tuple[int, int]
    name: str
    rows: int
    block: Any = None
    failed: int = 0


@dataclass
class _Hand:
    """A worker as seen from here."""

    actor: Any
    here: bool = False
    opened: bool = False
    piece: _Piece | None = None
    deaths: int = 0


@dataclass
class _Stream:
    """A shard that is being decoded."""

    order: int
    name: str
    blocks: Any
    here: bool = False
    block: Any = None
    count: int = 0
    rows: int = 0


@dataclass
class _Run(Generic[R]):
    ray: Any
    opened: Callable[[], Any]
    todo: Sequence[_AnyShard]
    cluster: Cluster
    workers: int
    told: Callable[[R], None]
    receipt: Callable[..., R]
    decode: Decode | None
    hands: list[_Hand] = field(default_factory=list)
    calls: dict[Any, _Hand] = field(default_factory=dict)
    streams: dict[Any, _Stream] = field(default_factory=dict)
    waiting: deque[_Piece] = field(default_factory=deque)
    done: list[tuple[tuple[int, int], R]] = field(default_factory=list)
    heard: set[tuple[Any, ...]] = field(default_factory=set)
    next: int = 0
    last: float = field(default_factory=time.monotonic)

    def all(self, stopped: Callable[[], None]) -> list[R]:
        """Do everything; ``stopped`` raises where that is to end."""
        for _ in range(self.workers):
            self.hands.append(hand := _Hand(self._actor()))
            self._greet(hand)
        while self._left():
            stopped()
            self._feed()
            open_streams = [s.blocks for s in self.streams.values()] if len(self.waiting) < 2 * len(self.hands) else []
            ready, _ = self.ray.wait([*self.calls, *open_streams], num_returns=1, timeout=min(1.0, self.cluster.patience))
            for one in ready:
                self.last = time.monotonic()
                if one in self.calls:
                    self._answered(one, self.calls.pop(one))
                else:
                    self._decoded(self.streams[one])
            self._watch()
        return [receipt for _, receipt in sorted(self.done, key=lambda item: item[0])]

    def stop(self) -> None:
        """End what is ours, on a cluster that may go on without us."""
        with suppress(self.ray.exceptions.RayError):  # of a cluster that is no more
            for stream in self.streams.values():
                self.ray.cancel(stream.blocks, force=True)
            for hand in self.hands:
                self.ray.kill(hand.actor, no_restart=True)

    def _left(self) -> bool:
        return bool(self.next < len(self.todo) or self.waiting or self.streams or any(hand.piece for hand in self.hands))

    # -- giving out

    def _feed(self) -> None:
        if self.decode is None:
            idle = sum(hand.opened and not hand.piece for hand in self.hands)
            while self.next < len(self.todo) and len(self.waiting) < idle:
                shard = self.todo[self.next]
                self.waiting.append(_Piece((self.next, 0), shard.name, shard.end - shard.begin))
                self.next += 1
        while self.decode and self.next < len(self.todo) and len(self.streams) < self.cluster.decode_workers:
            self._stream(self.next)
            self.next += 1
        for hand in self.hands:
            if self.waiting and hand.opened and not hand.piece:
                hand.piece = piece = self.waiting.popleft()
                work = hand.actor.do if self.decode is None else hand.actor.do_block
                self.calls[work.remote(self.todo[piece.order[0]].as_dict() if self.decode is None else piece.block)] = hand

    def _actor(self) -> Any:
        options = {"num_cpus": self.cluster.cpus_per_worker, "num_gpus": self.cluster.gpus_per_worker}
        return self.ray.remote(RemoteWorker).options(**options, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD").remote()

    def _greet(self, hand: _Hand) -> None:
        """Hear from a process as soon as it is there (again)."""
        self.calls[hand.actor.here.options(max_task_retries=-1).remote()] = hand

    # -- answers

    def _answered(self, call: Any, hand: _Hand) -> None:
        try:
            answer = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            raise _own(error) from None
        except self.ray.exceptions.RayError as error:
            self._died(hand, error)
            return
        if not hand.here:
            self._arrived(hand, answer)
        elif not hand.opened:
            hand.opened, hand.deaths = True, 0
            self._say(answer[1])
        elif answer is None:  # died and came back between two shards: nobody's fault
            assert hand.piece is not None
            self.waiting.appendleft(hand.piece)
            hand.here, hand.opened, hand.piece = False, False, None
            self._greet(hand)
        else:
            piece, hand.piece = hand.piece, None
            assert piece is not None
            self._say(answer[1])
            piece.failed += bool(answer[0]["why"])
            if answer[0]["why"] and piece.failed < TRIES:
                self.waiting.append(piece)
            else:
                self._tell(piece.order, self.receipt(**answer[0]))

    def _arrived(self, hand: _Hand, theirs: str) -> None:
        if theirs != version("onnxsal"):
            raise InputError(f"a machine of the cluster has onnxsal {theirs}, this one {version('onnxsal')}. Install the same everywhere.")
        hand.here = True
        self.calls[hand.actor.open.remote(self.opened, getattr(type(self.todo[0]), "of", dict))] = hand

    def _died(self, hand: _Hand, error: Exception) -> None:
        """Its process is gone: Ray starts it again, and what it had in hand goes back to the front."""
        piece, hand.piece = hand.piece, None
        hand.here = hand.opened = False
        if piece is None:
            hand.deaths += 1
            if hand.deaths == TRIES:
                raise OnnxsalError(
                    f"a worker's process died {TRIES} times before it had opened ({_gist(error)}). Does memory suffice for "
                    f"{self.cluster.asked(self.workers)}, and is onnxsal {version('onnxsal')} installed on every machine?"
                ) from error
        else:
            piece.failed += 1
            log.warning("a process died at shard %s (try %d of %d): %s", piece.name, piece.failed, TRIES, _gist(error))
            if piece.failed < TRIES:
                self.waiting.appendleft(piece)
            else:
                where = "it" if piece.block is None else f"its block {piece.order[1]} ({piece.rows} rows)"
                self._give_up(piece.order, piece.name, piece.rows, f"the process that worked on {where} died, at try {TRIES}{OF_WHAT}")
        if isinstance(error, self.ray.exceptions.ActorDiedError):  # for good
            hand.actor = self._actor()
        self._greet(hand)

    def _give_up(self, order: tuple[int, int], name: str, rows: int, why: str) -> None:
        self._tell(order, self.receipt(shard=name, rows=rows, bad=0, seconds=0.0, why=why))

    def _tell(self, order: tuple[int, int], receipt: R) -> None:
        self.done.append((order, receipt))
        self.told(receipt)

    def _say(self, said: Sequence[tuple[Any, ...]]) -> None:
        """Warn and log here what workers warned of and logged: each once."""
        for what in said:
            if what in self.heard:
                continue
            self.heard.add(what)
            if isinstance(what[0], str):
                logging.getLogger(what[0]).log(what[1], "%s", what[2])
            else:
                warnings.warn(what[1], what[0], stacklevel=1)

    # -- decoding apart

    def _stream(self, order: int) -> None:
        options = {"num_cpus": 1, "num_returns": "streaming", "max_retries": TRIES - 1, "_generator_backpressure_num_objects": 4}
        blocks = self.ray.remote(decoded).options(**options).remote(self.decode, self.todo[order].as_dict())
        self.streams[blocks] = _Stream(order, self.todo[order].name, blocks)

    def _decoded(self, stream: _Stream) -> None:
        """Take the next that a stream gives; a block itself stays where it is."""
        try:
            given = next(stream.blocks, None)
            if given is None:
                self._ended(stream)
            elif not stream.here:
                stream.here = self.ray.get(given)
            elif stream.block is None:
                stream.block = given
            else:
                rows = self.ray.get(given)
                self.waiting.append(_Piece((stream.order, stream.count), stream.name, rows, stream.block))
                stream.block, stream.count, stream.rows = None, stream.count + 1, stream.rows + rows
        except self.ray.exceptions.RayTaskError as error:
            raise _own(error) from None
        except self.ray.exceptions.RayError as error:
            log.warning("decoding of shard %s failed: %s", stream.name, _gist(error))
            self._undecoded(stream, f"the process that decoded it died {TRIES} times, at block {stream.count}{OF_WHAT}")

    def _ended(self, stream: _Stream) -> None:
        if stream.block is not None:  # not a block but the error that ended the stream, which is raised here
            self.ray.get(stream.block)
        if stream.count:
            del self.streams[stream.blocks]
        else:
            self._undecoded(stream, "decoding it gave no block")

    def _undecoded(self, stream: _Stream, why: str) -> None:
        del self.streams[stream.blocks]
        shard = self.todo[stream.order]
        self._give_up((stream.order, stream.count), stream.name, shard.end - shard.begin - stream.rows, why)

    # -- nothing happens

    def _watch(self) -> None:
        """End a run in which nothing can happen: Ray waits for ever for room that there is not, without a word."""
        at_work = set(map(id, self.calls.values()))
        if any(hand.here and id(hand) in at_work for hand in self.hands) or any(stream.here for stream in self.streams.values()):
            return
        if time.monotonic() - self.last >= self.cluster.patience:
            raise InputError(
                f"no worker has started for {self.cluster.patience:g} s. Ray was asked for {self.cluster.asked(self.workers)}; the cluster "
                f"has {has(self.ray.cluster_resources())}, of which {has(self.ray.available_resources())} are free. Ask for less, wait "
                "until others are done, or give the cluster more patience."
            )


def _own(error: Any) -> BaseException:
    """The error as it was raised in a worker, with the place where it was."""
    cause: BaseException = error.cause if isinstance(error.cause, BaseException) else error
    if not isinstance(cause, OnnxsalError):
        cause.add_note(f"Raised in a worker's process:\n{error}")
    return cause


def _gist(error: BaseException) -> str:
    """The line of Ray's many that says what happened: the last, with the error that it was raised from."""
    return next((line.strip()[:300] for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)

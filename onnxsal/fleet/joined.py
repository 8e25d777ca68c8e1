"""A Ray to work on, joined or started for one run, without a word on the screen and without anything left behind.

What Ray 2.60 has no switch for is switched in its private parts, each in one place here; tests/test_fleet_ray_private.py sees a version in
which that no longer works.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxsal.errors import InputError, OnnxsalError
from onnxsal.fleet.cluster import Cluster, store_bytes
from onnxsal.runtime.libraries import library

log = logging.getLogger(__name__)


@contextlib.contextmanager
def joined(cluster: Cluster) -> Iterator[tuple[Any, Callable[[], None]]]:
    """The module ``ray``, of a process that belongs to the cluster within the block, and what raises ``KeyboardInterrupt`` where a signal
    wants the block to end (call it now and then: where a signal comes in the midst of Ray, an exception may not come through).

    A private Ray is stopped with the block, however that ends; one that was running goes on. After SIGTERM or Ctrl-C the handler that this
    process had has the last word; if it returns, or there was none, it is ``KeyboardInterrupt``.
    Raises ``InputError`` where the address leads nowhere, ``OnnxsalError`` where a private Ray does not start.
    """
    with _noted_signals() as signals, _environment(cluster, signals):
        ray = library("ray")
        with _quiet(ray):
            if ray.is_initialized():  # by who calls us: theirs to stop
                _same(ray, cluster.address)
                yield ray, signals.check
                return
            with _private(ray, cluster, signals) if cluster.address is None else _running(ray, cluster.address, signals):
                yield ray, signals.check


# ----- a private Ray -----


@contextlib.contextmanager
def _private(ray: Any, cluster: Cluster, signals: _Signals) -> Iterator[None]:
    """A Ray of this process, on this machine's loopback, in a folder that nobody else reads."""
    folder = tempfile.mkdtemp(prefix="onnxsal-", dir=_short_folder())
    try:
        with _loopback(ray), _spared(ray), signals.later():
            try:
                ray.init(
                    address="local",  # None would follow RAY_ADDRESS to a cluster
                    num_cpus=_cpus(cluster),
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                    object_store_memory=store_bytes(cluster.store, _shared_memory()),
                    _temp_dir=f"{folder}/r",  # Ray opens its folder to everyone; the one around it stays closed
                )
            except Exception as error:
                raise OnnxsalError(f"a private Ray could not be started on this machine: {_first_line(error)}") from error
        yield
    finally:
        with _undisturbed():
            ray.shutdown(wait_for_processes=True)
            _end_rest(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str:
    """The folder for temporary files, where sockets in it have names that are short enough (about 100 bytes)."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 24 or not os.path.isdir("/tmp") else "/tmp"


def _cpus(cluster: Cluster) -> int | None:
    """How many CPUs a private Ray counts; ``None``: it counts itself, and minds the limits of containers, but not those of a process."""
    if cluster.cpus is None and hasattr(os, "sched_getaffinity") and (own := len(os.sched_getaffinity(0))) < (os.cpu_count() or 1):
        return own
    return cluster.cpus


def _shared_memory() -> int | None:
    with contextlib.suppress(OSError, AttributeError):
        found = os.statvfs("/dev/shm")
        return found.f_bavail * found.f_frsize
    return None


@contextlib.contextmanager
def _loopback(ray: Any) -> Iterator[None]:
    """Every port of a Ray that is started within the block is on 127.0.0.1. (``_node_ip_address="127.0.0.1"`` becomes the address of the
    network card: Ray takes this machine for part of a cluster, unless it is a Mac.)
    """
    constants = ray._private.ray_constants
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


SPARED = ("start_api_server", "start_log_monitor", "start_monitor")
"""What starts the processes of the dashboard, of copied logs and of the autoscaler."""


NO_IDLE = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}
"""Settings of a Ray that starts no process before there is something for it to do."""


@contextlib.contextmanager
def _spared(ray: Any) -> Iterator[None]:
    """A Ray that is started within the block has only the processes that carry work. (``include_dashboard=False`` starts a dashboard all
    the same; the three took 8 CPU seconds to start, and a third of what a Ray takes while it waits.)
    """
    node = ray._private.node.Node
    before = {name: getattr(node, name) for name in SPARED}
    for name in SPARED:
        setattr(node, name, lambda self, **asked: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(node, name, method)


def _end_rest(folder: str) -> None:
    """End what still runs of the Ray in a folder: after a start that was cut short Ray itself does not know of all its processes, and
    its agents look only now and then whether their daemon is gone. Where there is no /proc, they end at the latest with this process.

    Daemons name the folder on their command lines. Agents and workers put a title there; they have this run's token.
    """
    token = f"RAY_AUTH_TOKEN={os.environ['RAY_AUTH_TOKEN']}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes()
            ours = os.fsencode(folder) in line or (line.startswith(b"ray::") and token in (process / "environ").read_bytes())
            if ours and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


# ----- a Ray that is running -----


@contextlib.contextmanager
def _running(ray: Any, address: str, signals: _Signals) -> Iterator[None]:
    _answers(address)
    try:
        with signals.later():
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:
        raise InputError(
            f"the Ray at {address} could not be joined: {_first_line(error)}. It must be running, with the Ray ({ray.__version__}) and the "
            "Python of this machine. Where it wants a token: RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token."
        ) from error
    try:
        yield
    finally:
        with _undisturbed():
            ray.shutdown()


def _same(ray: Any, address: str | None) -> None:
    """A process belongs to one Ray at a time."""
    ours = ray.get_runtime_context().gcs_address
    if address is None:
        log.warning("this process belongs to the Ray at %s already: that one is used, and left running", ours)
    elif ":" in address and "://" not in address and address != ours:
        raise InputError(f"this process belongs to the Ray at {ours} and cannot join that at {address}. Call ray.shutdown() before.")


def _answers(address: str) -> None:
    """Raise ``InputError`` where nothing listens: Ray tries for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return
    try:
        if not port.isdecimal():
            raise OSError("the port is no number")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray answers at {address} ({error}). Start one there (ray start --head), or name another: 'auto' is this machine's."
        ) from error


# ----- the process around it -----


@contextlib.contextmanager
def _environment(cluster: Cluster, signals: _Signals) -> Iterator[None]:
    """Environment variables of a Ray that is started or joined within the block; afterwards they are as they were, also those that Ray sets
    when it is imported.
    """
    wanted = {"RAY_USAGE_STATS_ENABLED": "0"}
    if cluster.address is None:  # a token for this run alone; left to itself, Ray writes one into the home folder and says so
        wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} | NO_IDLE
    before = {name: value for name, value in os.environ.items() if _is_of_ray(name)}
    os.environ.update(wanted)
    try:
        with signals.later():  # Ray is imported: an exception would leave half of it behind, and some of it catches all
            _token_changed()
        yield
    finally:
        for name in [*filter(_is_of_ray, os.environ)]:
            del os.environ[name]
        os.environ.update(before)
        _token_changed()


def _is_of_ray(name: str) -> bool:
    return name.startswith("RAY_") or name == "PYTHONBREAKPOINT"  # of which Ray makes a debugger of its own


def _token_changed() -> None:
    """Ray keeps the token that it read first, also where the next Ray has another."""
    raylet = library("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Ray's loggers and what it prints of its daemons (to the standard output, even with ``log_to_driver=False``) become debug messages,
    and it leaves the handler of SIGTERM alone.
    """
    loggers = logging.getLogger("ray")
    level, worker, utils = loggers.level, ray._private.worker, ray._private.utils
    printed, handles = worker.print_to_stdstream, utils.set_sigterm_handler
    loggers.setLevel(logging.CRITICAL)
    worker.print_to_stdstream = lambda data, *rest, **more: log.debug("Ray: %s", "\n".join(map(str, data.get("lines", ()))))
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        worker.print_to_stdstream, utils.set_sigterm_handler = printed, handles
        loggers.setLevel(level)


class _Signals:
    """Notes SIGINT and SIGTERM, and raises ``KeyboardInterrupt``: at once, or, the first, ``later`` than the block in which it came."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self.numbers: list[int] = []
        self._later = False

    def __call__(self, number: int, frame: object) -> None:
        self.came.append(number)
        if not self._later or len(self.came) > 1:
            raise KeyboardInterrupt

    def install(self) -> None:
        """Take the signals that are ours to take."""
        for number in self.numbers:
            signal.signal(number, self)

    def check(self) -> None:
        """Raise for one that has come."""
        if self.came:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Ray is imported or starts within the block: an exception that falls between its processes may be lost in one of its callbacks.
        Afterwards its native part has SIGTERM, and would print where it was when that came.
        """
        self._later = True
        try:
            yield
        finally:
            self._later = False
            self.install()
        self.check()


@contextlib.contextmanager
def _noted_signals() -> Iterator[_Signals]:
    """SIGINT and SIGTERM end the block; then whoever handled them before is asked, and ``KeyboardInterrupt`` goes on if that returns."""
    signals = _Signals()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}
    signals.numbers = [*before]
    try:
        signals.install()
        yield signals
        signals.check()
    except KeyboardInterrupt:
        _restore(before)
        if signals.came and callable(before[signals.came[0]]):
            before[signals.came[0]](signals.came[0], None)
        raise
    finally:
        _restore(before)


def _restore(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Who presses Ctrl-C twice would stop the stopping; it takes about two seconds."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: signal.SIG_DFL if handler is None else handler for number, handler in found.items()}
    try:
        yield
    finally:
        _restore(before)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""What is asked of a cluster, and whether it has it: pure arithmetic, without Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxsal.errors import InputError

CPU, GPU = "CPU", "GPU"
"""How Ray names what a machine has."""


@dataclass(frozen=True)
class Cluster:
    """The machines that shards are worked on, and how many workers they get.

    - ``address``: of a Ray that is running: ``"auto"`` (the one of this machine), ``"host:port"`` or ``"ray://host:port"``; it is joined
      and left running. ``None``: a private one is started on this machine, which nothing outside reaches, and stopped afterwards.
    - ``workers``: processes that explain. ``None``: as many as the GPUs suffice for where a worker takes some, else the CPUs.
    - ``gpus_per_worker``: how many GPUs a worker has to itself; .5 where two share one.
    - ``decode_workers``: CPUs that decode for the workers; 0: each worker decodes what it explains.
    - ``cpus_per_worker``: CPUs that a worker takes.
    - ``cpus``: CPUs of a private Ray; ``None``: those of this machine, or as many as this process may use.
    - ``store``: bytes of shared memory of a private Ray, less where ``/dev/shm`` is smaller.
    - ``patience``: seconds without a result and without a worker at work after which the run ends with an error.
    - ``grows``: the cluster starts machines when they are asked for; what it has now is then no limit.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float = 0
    decode_workers: int = 0
    cpus_per_worker: float = 1
    cpus: int | None = None
    store: int = 512 << 20
    patience: float = 120
    grows: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(f"{self.workers} workers were asked for; at least 1 is needed.")
        for name, least in (("gpus_per_worker", 0.0), ("decode_workers", 0), ("cpus_per_worker", 0.01), ("patience", 0.01)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise InputError(f"{name}={value} is not a finite number of at least {least}.")

    def asked(self, workers: int) -> str:
        """What so many workers take, in words."""
        gpus = f" and {_amount(self.gpus_per_worker, GPU)}" if self.gpus_per_worker else ""
        decoding = f", and {_amount(self.decode_workers, CPU)} for decoding" if self.decode_workers else ""
        return f"{workers} worker{'s' * (workers != 1)} with {_amount(self.cpus_per_worker, CPU)}{gpus} each{decoding}"


def has(resources: Mapping[str, float]) -> str:
    """What there is, in words."""
    return f"{_amount(resources.get(CPU, 0), CPU)} and {_amount(resources.get(GPU, 0), GPU)}"


def _amount(number: float, what: str) -> str:
    return f"{number:g} {what}{'s' * (number != 1)}"


def placed(cluster: Cluster, machines: Sequence[Mapping[str, float]], most: int | None = None) -> int:
    """How many workers are started: those asked for, or as many as fit, but at most ``most``.

    ``machines``: what each has, as ``{"CPU": 16.0, "GPU": 1.0}``. A worker lies on one machine, and decoding takes what workers leave.
    Raises ``InputError`` where they do not fit: Ray itself would wait for ever.
    """
    fit = sum(_holds(machine, cluster) for machine in machines)
    cpus = sum(machine.get(CPU, 0) for machine in machines)
    fit = min(fit, math.floor((cpus - cluster.decode_workers) / cluster.cpus_per_worker + 1e-9))
    wanted = cluster.workers or max(fit, 1)
    workers = wanted if most is None else min(wanted, most)
    if workers > fit and not cluster.grows:
        there = {CPU: cpus, GPU: sum(machine.get(GPU, 0) for machine in machines)}
        raise InputError(
            f"Ray was asked for {cluster.asked(workers)}. There is room for {max(fit, 0)}: {_machines(len(machines))} with {has(there)}. "
            "Ask for fewer workers, for less of each, or for a cluster that has more."
        )
    return workers


def _holds(machine: Mapping[str, float], cluster: Cluster) -> int:
    """How many workers one machine has room for."""
    by_cpu = machine.get(CPU, 0) / cluster.cpus_per_worker
    by_gpu = machine.get(GPU, 0) / cluster.gpus_per_worker if cluster.gpus_per_worker else by_cpu
    return math.floor(min(by_cpu, by_gpu) + 1e-9)


def _machines(number: int) -> str:
    return "1 machine" if number == 1 else f"{number} machines"


def store_bytes(wanted: int, shared: int | None) -> int:
    """Shared memory for a private Ray: what is wanted, or nine tenths of what ``/dev/shm`` has where that is less (``None``: not known).

    Never less than Ray accepts; where there is not even that, Ray takes a file in its folder of temporary files instead.
    """
    return max(LEAST_STORE, wanted if shared is None else min(wanted, shared * 9 // 10))


LEAST_STORE = 80 << 20
"""Bytes; Ray refuses less than 75 MiB."""

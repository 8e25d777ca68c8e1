"""What other packages add: rules and wrappers (entry point group ``onnxsal.rules``), tables of methods (``onnxsal.methods``) and metrics
(``onnxsal.metrics``).

An entry of ``onnxsal.rules`` names a module; importing it registers its rules (``onnxsal.backward.rule``) and wrappers
(``onnxsal.methods.build.wrap``). An entry of ``onnxsal.methods`` names a package whose ``*.toml`` files are methods. An entry of
``onnxsal.metrics`` names a module; importing it states its metrics (``onnxsal.metrics.measure``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable

from onnxsal.errors import MethodError

RULES_GROUP, METHODS_GROUP, METRICS_GROUP = "onnxsal.rules", "onnxsal.methods", "onnxsal.metrics"


@cache
def load_rules() -> None:
    """Import what other packages register, once."""
    for entry in entry_points(group=RULES_GROUP):
        _load(entry)


@cache
def load_metrics() -> tuple[MethodError, ...]:
    """Import the metrics that other packages state, once; gives the errors of those that cannot be imported."""
    errors = []
    for entry in sorted(entry_points(group=METRICS_GROUP), key=lambda e: e.name):
        try:
            _load(entry)
        except MethodError as error:
            errors.append(error)
    return tuple(errors)


def third_party_tables() -> Iterator[tuple[str, Traversable]]:
    """(where, table) of every table that another package brings, by name."""
    for entry in sorted(entry_points(group=METHODS_GROUP), key=lambda e: e.name):
        package = _load(entry)
        for table in sorted(files(getattr(package, "__name__", entry.value)).iterdir(), key=lambda t: t.name):
            if table.name.endswith(".toml"):
                yield f"{entry.value}/{table.name}", table


def _load(entry: EntryPoint) -> object:
    """What an entry point names. Raises ``MethodError`` if it cannot be imported, naming the package that is to blame."""
    try:
        return entry.load()
    except Exception as error:
        owner = entry.dist.name if entry.dist is not None else entry.value
        raise MethodError(
            f"package '{owner}' says that it adds to onnxsal ({entry.group}: {entry.value}), but that cannot be imported: "
            f"{type(error).__name__}: {error}. Mend or uninstall it."
        ) from error

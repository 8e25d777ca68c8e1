"""What is noted of a row of a table: the attribution of each of its columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsal.errors import InputError
from onnxsal.explanation import Explanation
from onnxsal.metrics.data_kind import ROWS
from onnxsal.metrics.record import Line
from onnxsal.report.audit.notes import Look
from onnxsal.report.audit.subject import Subject
from onnxsal.runtime.columns import by_column


class RowLook(Look):
    """Rows. An attribution has a sign, by which a column speaks for the class or against it; what is compared is their signed order."""

    kind = ROWS

    @classmethod
    def admit(cls, own: Subject, other: Subject | None) -> None:
        if other is None:
            return
        first, second = (columns_of_rows(who) for who in (own, other))
        if set(first) != set(second):
            alone = sorted(set(first) ^ set(second))
            raise InputError(
                f"the models cannot be compared: one of them alone takes {', '.join(repr(c) for c in alone)}. Both must take the same "
                "columns, with the same groups."
            )

    def shown(self, i: int) -> Line:
        return {}

    def facts(self, who: Subject, one: Explanation, i: int) -> Line:
        found = self._columns(who, one, [i])[0]
        if not np.isfinite(found).all():
            raise InputError("the attribution holds NaN or infinite values.")
        return {"columns": found.tolist()}

    def order(self, who: Subject, whole: Explanation) -> np.ndarray | None:
        return self._columns(who, whole, range(len(whole)))

    def _columns(self, who: Subject, whole: Explanation, group: Sequence[int]) -> np.ndarray:
        """Attributions [N, columns], in the order of the audited model's columns."""
        assert who.rows is not None
        names = columns_of_rows(self.own)
        at = [columns_of_rows(who).index(name) for name in names]
        shown = [who.rows.shown[self.group[i].name] for i in group]
        return np.stack([by_column(s, a)[at] for s, a in zip(shown, whole.attribution, strict=True)])


def columns_of_rows(who: Subject) -> tuple[str, ...]:
    """The columns of a model that is fed with rows, as they are shown."""
    assert who.rows is not None
    return who.rows.rows.shown[0].columns

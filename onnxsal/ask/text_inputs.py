"""Which input of a model takes the ids of a text, which the mask, the token types, the positions: proved, seen in a run, or told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from onnxsal.ask.question import COUNTED, Question
from onnxsal.errors import InputError, near_miss
from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.part import part_of
from onnxsal.facts.solve import ancestors
from onnxsal.facts.tokens import Lookup, candidates, words_of
from onnxsal.runtime.session import Session, Tensor, open_session

FEW = 4
"""Rows of a table that is looked up for each token and holds types of tokens: too few for the places of a text."""

TRIED = 6
"""Tokens of the text on which a mask is tried, the last half of them hidden, where the model does not fix their number."""


class Role(StrEnum):
    """What a model reads of a text: ``MASK`` is 1 where a token is seen, ``HIDDEN`` where it is not."""

    IDS = "ids"
    MASK = "mask"
    HIDDEN = "hidden"
    TYPES = "types"
    POSITIONS = "positions"


NAMES = {"input_ids": Role.IDS, "attention_mask": Role.MASK, "token_type_ids": Role.TYPES, "position_ids": Role.POSITIONS}
"""The names that exporters of transformers give, which say what an input is where the graph does not."""


@dataclass(frozen=True)
class TextInputs:
    """Role -> the input of that role, and how each is known. ``length`` is the number of tokens where the model fixes it."""

    names: Mapping[Role, Tensor]
    length: int | None
    found: tuple[Found, ...]


def text_inputs(question: Question, inputs: Sequence[Tensor], told: Mapping[str, str] | None = None) -> TextInputs:
    """The inputs of a model that reads texts, each with its role; ``inputs`` are those that it must be given.

    ``told`` (role -> name) counts first. The ids are the input whose entries are looked up as words. Of the others one that is looked up in
    a table of at most 4 rows holds types, another one is what its name says (``NAMES``); what is left and looked up nowhere is a mask where
    a run shows it: with it the answer does not change with what is hidden, and does with what is seen. Raises ``InputError`` where an input
    is left, with what is known of each.
    """
    roles = _told(inputs, told or {})
    by_name = {t.name: t for t in inputs}
    if Role.IDS not in roles.values():
        ids = _ids(question, by_name)
        roles.setdefault(ids, Role.IDS)
        if roles[ids] is not Role.IDS:
            raise InputError(f"'{ids}' holds the ids of the words, and is said to be the {roles[ids]}.")
    why = {name: Found("text", f"'{name}' is the {role}", Ground.TOLD) for name, role in roles.items() if told and name in told.values()}
    for tensor in inputs:
        if tensor.name not in roles and (known := _known(question, tensor)) is not None:
            roles[tensor.name], why[tensor.name] = known
    ids = next(name for name, role in roles.items() if role is Role.IDS)
    why.setdefault(ids, Found("text", f"'{ids}' is the ids", Ground.PROVED, "its entries are looked up as words"))
    trial = RoleTrial(question, inputs, by_name[ids], roles)
    for tensor in inputs:
        if tensor.name not in roles and (seen := trial.seen(tensor)) is not None:
            roles[tensor.name], why[tensor.name] = seen
    _refuse_unknown(question, inputs, roles)
    return TextInputs({role: by_name[name] for name, role in roles.items()}, _length(by_name[ids]), tuple(why[n] for n in roles))


def _told(inputs: Sequence[Tensor], told: Mapping[str, str]) -> dict[str, Role]:
    """Input -> role, as the user says it. Raises ``InputError`` for a role or an input that there is not."""
    known, roles = [t.name for t in inputs], list(Role)
    for role, name in told.items():
        if role not in roles:
            raise InputError(f"'{role}' is no role of an input{near_miss(role, roles)}; roles: {', '.join(roles)}.")
        if name not in known:
            raise InputError(f"the model has no input '{name}'{near_miss(name, known)}; its inputs: {', '.join(map(str, inputs))}.")
    if len(set(told.values())) != len(told):
        raise InputError(f"one input has two roles: {', '.join(f'{role}={name}' for role, name in told.items())}.")
    return {name: Role(role) for role, name in told.items()}


def _ids(question: Question, inputs: Mapping[str, Tensor]) -> str:
    """The input that holds the ids. Raises ``InputError`` where nothing tells it."""
    words = words_of(question.model)[0]
    known = question.tokens.ids if question.tokens is not None else question.x.name if question.x.dtype in COUNTED else ""
    known = known or (words.ids if words is not None else "")
    if known in inputs:
        return known
    named = [name for name in inputs if NAMES.get(name) is Role.IDS]
    if not named:
        _refuse_unknown(question, [*inputs.values()], {})
    return named[0]


def _length(ids: Tensor) -> int | None:
    size = ids.shape[-1] if ids.shape else None
    return size if isinstance(size, int) else None


def _lookups(question: Question, name: str) -> list[Lookup]:
    return [one for one in candidates(question.model) if one.ids == name]


def _known(question: Question, tensor: Tensor) -> tuple[Role, Found] | None:
    """The role of an input, by the table that it is looked up in, or by its name."""
    tables, named = _lookups(question, tensor.name), NAMES.get(tensor.name)
    rows = max((one.rows or 0 for one in tables), default=0)
    if tables and 0 < rows <= FEW:
        why = f"looked up in '{tables[0].table}' of {rows} rows"
        return Role.TYPES, Found("text", f"'{tensor.name}' is the token types", Ground.PROVED, why)
    if named is None or named is Role.IDS or (tables and named is Role.MASK):
        return None
    return named, Found("text", f"'{tensor.name}' is the {named}", Ground.TOLD, "its name says so")


# ----- a mask, seen in a run -----


@dataclass(frozen=True)
class RoleTrial:
    """A short text on which masks are tried: its first half is seen, the rest is hidden. ``roles`` are those known by then."""

    question: Question
    inputs: Sequence[Tensor]
    ids: Tensor
    roles: Mapping[str, Role]

    @property
    def length(self) -> int:
        return _length(self.ids) or TRIED

    @property
    def shows(self) -> np.ndarray:
        """Which tokens are seen."""
        return np.arange(self.length) < (self.length + 1) // 2

    def seen(self, tensor: Tensor) -> tuple[Role, Found] | None:
        """Whether an input that is looked up nowhere hides tokens, and by 0 (``MASK``) or 1 (``HIDDEN``); ``None`` where no run tells."""
        same = tensor.shape is not None and self.ids.shape is not None and len(tensor.shape) == len(self.ids.shape)
        if not same or tensor.dtype is None or _lookups(self.question, tensor.name) or Role.MASK in self.roles.values():
            return None
        start = self.question.start.name
        session = open_session(part_of(self.question.model, [start]), "cpu", optimise=False, planned=False)
        hiding = [role for role in (Role.MASK, Role.HIDDEN) if self._hides(session, tensor, role)]
        if len(hiding) != 1:
            return None
        by = "0" if hiding[0] is Role.MASK else "1"
        return hiding[0], Found("text", f"'{tensor.name}' hides tokens by {by}", Ground.SEEN, f"what it hides does not change '{start}'")

    def _hides(self, session: Session, mask: Tensor, role: Role) -> bool:
        """Whether what is hidden changes nothing at the last token that is seen, and the first token changes something there."""
        row, first = np.arange(self.length) % 4 + 1, np.arange(self.length) == 0
        other = row % 4 + 1
        here, hidden, changed = (
            self._answer(session, ids, mask, role) for ids in (row, np.where(self.shows, row, other), np.where(first, other, row))
        )
        if not all(np.isfinite(one).all() for one in (here, hidden, changed)):
            return False
        scale = max(float(np.abs(here).max()), 1e-30)
        return bool(np.abs(hidden - here).max() <= 1e-5 * scale < np.abs(changed - here).max())

    def _answer(self, session: Session, ids: np.ndarray, mask: Tensor, role: Role) -> np.ndarray:
        """The scores, where they have a row for each token those of the last one that is seen."""
        rows = {t.name: self._blank(self.roles.get(t.name)) for t in self.inputs}
        rows |= {self.ids.name: ids, mask.name: self.shows if role is Role.MASK else ~self.shows}
        needed, start = {t.name for t in session.inputs}, self.question.start.name
        feed = {t.name: np.broadcast_to(rows[t.name], _shape(t, self.length)).astype(t.dtype) for t in self.inputs if t.name in needed}
        out = np.asarray(session.run(feed, [start])[start], np.float64)
        places = [a for a, size in enumerate(out.shape) if size == self.length and a > 0 and out.ndim > 2]
        return np.take(out, [int(self.shows.sum()) - 1], places[0]) if places else out

    def _blank(self, role: Role | None) -> np.ndarray:
        """What an input of a known role holds for this text; of an unknown one ones."""
        if role is Role.HIDDEN:
            return ~self.shows
        return {Role.TYPES: np.zeros(self.length), Role.POSITIONS: np.arange(self.length)}.get(role, np.ones(self.length))  # type: ignore[arg-type]


def _shape(tensor: Tensor, length: int) -> tuple[int, ...]:
    """A batch of one, or as large as the model fixes it."""
    sizes = [size if isinstance(size, int) else 1 for size in (tensor.shape or (1,))]
    return (*sizes[:-1], length)


def _refuse_unknown(question: Question, inputs: Sequence[Tensor], roles: Mapping[str, Role]) -> None:
    """Raise ``InputError`` where the role of an input is not known, or two have the same."""
    unknown = [t.name for t in inputs if t.name not in roles]
    twice = len(set(roles.values())) != len(roles)
    if not unknown and not twice:
        return
    listing = "; ".join(_words(question, t, roles.get(t.name)) for t in inputs)
    what = f"what '{unknown[0]}' holds is not known" if unknown else "two inputs have one role"
    raise InputError(
        f"a text cannot be fed: {what}. Inputs: {listing}. Say it: --roles {','.join(f'{r}=NAME' for r in Role if r is not Role.HIDDEN)} "
        "(roles={'mask': 'NAME'} in Python; 'hidden' is a mask that is 1 where a token is not seen)."
    )


def _words(question: Question, tensor: Tensor, role: Role | None) -> str:
    """An input in a message: its type, its role, and what becomes of it."""
    tables = _lookups(question, tensor.name)
    used = bool(ancestors(question.model, [question.start.name]).intersection([tensor.name]))
    rows = [f"looked up in '{one.table}'{f' of {one.rows} rows' if one.rows else ''}" for one in tables]
    told = [f"the {role}"] if role is not None else rows or ([] if used else ["the scores do not depend on it"])
    return f"{tensor}{f' ({told[0]})' if told else ''}"

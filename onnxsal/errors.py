"""Every exception onnxsal raises on purpose: one message that says node, operator, wanted, known, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OnnxsalError(Exception):
    """Base of all deliberate errors; the command line prints it and exits with status 2."""


class ModelError(OnnxsalError):
    """The file is not a model that can be read, checked or run; ``node`` names the node that failed in a run ('' = none)."""

    node: str = ""


class ModelTooLarge(ModelError):
    """The model asks for more than a limit allows; the message names the limit and how to raise it."""


class ExampleNeeded(ModelError):
    """The model alone does not tell what is needed here; a run on data of its kind would: ``example=`` in Python, ``--example`` FILE."""


class UnsupportedError(OnnxsalError):
    """A node, attribute or shape that a rule cannot handle exactly; refused rather than approximated."""


class PlanError(OnnxsalError):
    """The graph cannot be explained by this method; the message lists every gap at once."""


class MethodError(OnnxsalError):
    """An unknown method, an unknown parameter, or a rule file that does not follow the schema."""


class TargetError(OnnxsalError):
    """A class index, label, output or input that the model does not have."""


class InputError(OnnxsalError):
    """Data that does not fit the model: shape, type, NaN, an unreadable picture."""


class ProviderError(OnnxsalError):
    """An execution provider was asked for and not obtained."""


class OutputError(OnnxsalError):
    """A result could not be written."""


def near_miss(word: str, known: Iterable[str], least: float = 0.65) -> str:
    """``" (did you mean 'x'?)"`` for the closest known word, or an empty string; the sentence goes on after it.

    ``least``: how alike they are, from 0 to 1 (twice the characters that match, by all characters of both).
    """
    hits = difflib.get_close_matches(word, list(known), n=1, cutoff=least)
    return f" (did you mean '{hits[0]}'?)" if hits else ""

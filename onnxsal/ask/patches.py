"""The tokens of a picture, explained in its pixels' place: a pixel of 0 has no x to multiply a gradient with, a patch of them has."""

from __future__ import annotations

from dataclasses import replace

from onnxsal.ask.layers import layers_of
from onnxsal.ask.question import Question
from onnxsal.errors import TargetError
from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.tokens import Tokens
from onnxsal.graph.infer import shape_text


def at_tokens(question: Question) -> Question:
    """The same question of the tokens: of a text as it is, of a picture at its patch embedding (``Layers.patches``).

    Raises ``TargetError`` where the explained tensor holds no tokens and becomes none.
    """
    if question.tokens is not None:
        return question
    picture, x = question.picture, question.x
    if picture is None:
        raise TargetError(f"'{x.name}' {shape_text(x.shape)} holds neither tokens nor a picture that is cut into some; leave --tokens out.")
    layer = layers_of(question).patches
    value = f"'{layer.value.name}' {shape_text(layer.value.shape)} is explained: {layer.tokens_of}"
    found = Found("tokens", value, Ground.PROVED if question.grid is None else Ground.TOLD, f"the patches of '{x.name}', not mixed yet")
    tokens = Tokens("", found, layer.tokens_of, x, picture)
    return replace(question, x=layer.value, picture=None, tokens=tokens, found=(*question.found, found))

"""Explanation: what a converted model said about a batch of samples."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.display import Displayed, Figure, Panel
from onnxsal.errors import InputError
from onnxsal.facts.booked import INPUT
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.on_device import OnDevice
from onnxsal.runtime.shown import AnyShown, ShownRow, ShownText, shown_as

REACHED = (0.1, 2.0)
"""A share of the score at the input outside this range is told. Biases that take a good part of it are nothing unusual."""

ROWS = ("attribution", "token_attribution", "saliency_map", "target", "score", "residual", "reached", "against", "standard_error")
"""Fields of an ``Explanation`` that hold a row for each sample."""

MOST = 8
"""So many samples show themselves in a notebook; of all others there are the numbers."""

FEW = 8
"""So many numbers of a setting stand in a title; of more it is said how many they are."""

PAGE = (7.5, 2.5)
"""Inches of a text in colours: width, and the height of the first lines; it grows with them."""

TOLD_OF_EACH = ("shown", "names", "sources")
"""Fields that tell something of each sample, or of none."""


@dataclass(frozen=True, repr=False)
class Explanation(Displayed):
    """What a converted model said about a batch of N samples.

    ``attribution`` is signed and shaped like the explained input; ``token_attribution`` is its sum over each token's vector, [N, L] of
    [N, L, D], or ``None`` where the explained tensor holds no tokens; ``saliency_map`` float32 [N, *places]: [N, H, W] of pictures,
    [N, L] of series, [N, D, H, W] of volumes and films, or ``None`` where the input is none of these; ``target`` int64 [N] the explained
    classes, ``against`` int64 [N] what each was compared with, or ``None``; ``score`` float32 [N] (of a comparison the difference of
    both); ``residual`` float32 [N] the relative error of the method's law, or ``None`` where it has none; ``standard_error`` that of each
    element of an attribution that is an estimate by sampling (else ``None``); ``outputs`` the model's own outputs (where the samples were
    run in parts, those that hold a row for each); ``seconds`` the time of the run;
    ``partial`` whether the attribution is only a part of what the map shows (FullGrad: the map has the biases too); ``reached``
    float32 [N] the share of the score that reaches the input (relevance methods; else ``None``); ``parts`` what the score is made of, by
    name float32 [N] each (input, position, token type, class token, softmax, biases and so on), where it is divided up; ``doubt`` a
    reason to read all of the maps with care ('' = none); ``provider_options`` the options that were set for each of the ``providers``,
    such as use_tf32; ``how`` whether the run was a CUDA graph, and what hinders it ('' = it was no question);
    ``shown`` what each sample is shown as beside its map, where that is known (else empty); ``names`` what was explained of each, in words
    ("tiger cat (282)"), ``sources`` the file or the number that each is from, where they were not given as arrays (else empty). Where an
    explanation was left on the device, its maps, components and outputs are ``OnDevice``: an index or a measure copies
    their numbers to the host.
    """

    attribution: np.ndarray
    saliency_map: np.ndarray | None
    target: np.ndarray
    score: np.ndarray
    residual: np.ndarray | None
    outputs: dict[str, np.ndarray]
    providers: list[str]
    seconds: float
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    components: dict[str, np.ndarray] = field(default_factory=dict)
    partial: bool = False
    reached: np.ndarray | None = None
    doubt: str = ""
    provider_options: dict[str, dict[str, str]] = field(default_factory=dict)
    token_attribution: np.ndarray | None = None
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    against: np.ndarray | None = None
    standard_error: np.ndarray | None = None
    how: str = ""
    shown: Sequence[AnyShown | None] = ()
    names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.target)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Explanation:
        """The explanation of one sample, as a batch of one. Raises ``IndexError`` past the last."""
        place = range(len(self))[index]
        if len(self) == 1:
            return self
        rows = {k: v for k in ROWS if (v := getattr(self, k)) is not None}
        outputs = {k: v[place : place + 1] if np.ndim(v) and len(v) == len(self) else v for k, v in self.outputs.items()}
        components, parts = ({k: v[place : place + 1] for k, v in some.items()} for some in (self.components, self.parts))
        one: dict[str, Any] = {k: getattr(self, k)[place : place + 1] for k in TOLD_OF_EACH}
        one |= {k: v[place : place + 1] for k, v in rows.items()}
        return replace(self, **one, outputs=outputs, components=components, parts=parts, seconds=self.seconds / max(len(self), 1))

    @property
    def by_token(self) -> np.ndarray | None:
        """What each token adds, [N, L] signed: ``token_attribution``, or of ids that were replaced themselves the attribution; ``None``
        where neither tokens nor ids [N, L] are explained.
        """
        if self.token_attribution is not None:
            return np.atleast_2d(np.asarray(self.token_attribution))
        return np.asarray(self.attribution) if self.saliency_map is None and self.attribution.ndim == 2 else None

    @property
    def warnings(self) -> list[str]:
        """Reasons not to read a map, or to read it with care. In a batch each says which sample it is about, if not all."""
        general = [self.doubt] if self.doubt else []
        if len(self) == 1:
            return [*general, *self._flaws()]
        return [*general, *(f"sample {i}: {flaw}" for i, one in enumerate(self) for flaw in one._flaws())]

    def _flaws(self) -> list[str]:
        return [*self._lost(), *filter(None, [self.empty])]

    def _lost(self) -> list[str]:
        """What the residual of a relevance method does not say: it counts what biases and leaks took as accounted for."""
        if self.reached is None or REACHED[0] <= self.reached[0] <= REACHED[1]:
            return []
        told = [f"{name} ({part[0] / self.score[0]:.1%})" for name, part in self.parts.items() if name != INPUT]
        kept = " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told) or "biases and constants and leaks"
        what = "attribution" if self.saliency_map is None else "map"
        return [f"{self.reached[0]:.1%} of the score reaches the input; the rest is in {kept}, which the {what} does not show"]

    @property
    def empty(self) -> str:
        """Why the map of a single sample shows nothing ('' = it does show something)."""
        from onnxsal.runtime.heatmap import scale_map

        if self.saliency_map is None:
            return "" if np.any(self.attribution) else "the attribution is zero everywhere, so it shows nothing"
        scaled = scale_map(self.saliency_map[0], places=self.saliency_map.ndim - 1)
        if not scaled.flat:
            return ""
        if np.any(self.attribution) and not np.any(self.saliency_map):
            why = "nothing in the layer speaks for the class more in one place than in another; the attribution keeps the signed map"
            return f"the saliency map is zero everywhere: {why}"
        one = "pixel" if self.saliency_map.ndim == 3 else "place"
        return f"the saliency map is flat: every {one} is {scaled.low:.3g}, so it shows nothing"

    # ----- how it shows itself -----

    def _panel(self) -> Panel:
        count, arrays = len(self), ("attribution", "token_attribution", "saliency_map")
        held = [f"{k} {v.dtype}{list(v.shape)}" for k in arrays if (v := getattr(self, k)) is not None]
        parameters = ", ".join(f"{k}={_short(v)}" for k, v in self.parameters.items() if v not in (None, "", []))
        ran = f"{self.seconds:.3g} s on {', '.join(self.providers)}"
        first = range(min(count, MOST))
        given = [k for k in ("score", "residual", "reached") if getattr(self, k) is not None]
        rows = [(self._source(i), self._name(i), *(f"{getattr(self, k)[i]:.4g}" for k in given)) for i in first]
        title = f"Explanation of {count} sample{'' if count == 1 else 's'} by {self.method}{f' ({parameters})' if parameters else ''}"
        told = [self.doubt] if self.doubt else []
        if not isinstance(self.attribution, OnDevice):
            told += [f"{self._source(i)}: {flaw}" if count > 1 else flaw for i in first for flaw in self[i]._flaws()]
        return Panel(title, [", ".join(held), ran], ("sample", "explained", *given), rows, told, count - len(first))

    def _figures(self) -> tuple[list[Figure], int]:
        if isinstance(self.attribution, OnDevice):
            return [], 0
        first = range(min(len(self), MOST))
        return [Figure(self._title(i), self._drawn(i)) for i in first], len(self) - len(first)

    def _drawn(self, index: int) -> str:
        """One sample beside its map, as HTML."""
        from onnxsal.runtime.show_html import elements_html, picture_html
        from onnxsal.runtime.text_html import text_html

        one = self[index]
        if one.by_token is not None and one.shown and isinstance(one.shown[0], ShownText):
            return text_html(one.shown[0], one.by_token[0])
        if one.saliency_map is not None:
            wide = one.saliency_map.ndim != 3
            about, side = f"the map of {one._title(0)}", [900] if wide else []
            try:
                return picture_html(one.plot(), about, *side)
            except InputError as error:  # what it would lie on cannot be shown any more
                return picture_html(replace(one, shown=()).plot(), about, *side) + f"<div>{escape(str(error))}</div>"
        values = one.attribution if one.token_attribution is None else one.token_attribution
        return elements_html(np.asarray(values), one.shown[0] if one.shown else None)

    def _source(self, index: int) -> str:
        return self.sources[index] if self.sources else str(index)

    def _name(self, index: int) -> str:
        return self.names[index] if self.names else f"class {self.target[index]}"

    def _title(self, index: int) -> str:
        return f"{self._source(index)}: {self._name(index)}, {self.score[index]:.4g}"

    @property
    def summary(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON."""
        return {
            "method": self.method,
            "parameters": self.parameters,
            "target": self.target.tolist(),
            "names": list(self.names),
            "sources": list(self.sources),
            "score": self.score.tolist(),
            "residual": None if self.residual is None else self.residual.tolist(),
            "reached": None if self.reached is None else self.reached.tolist(),
            "parts": {name: part.tolist() for name, part in self.parts.items()},
            "providers": self.providers,
            "provider_options": self.provider_options,
            "how": self.how,
            "seconds": self.seconds,
            "warnings": self.warnings,
        }

    def save(self, path: str | Path) -> Path:
        """Write the arrays to ``<path>.npz`` and everything else to ``<path>.json``; returns the .npz path."""
        name = Path(path)
        name = name.with_suffix("") if name.suffix == ".npz" else name
        target = name.with_name(f"{name.name}.npz")
        arrays = {"attribution": self.attribution, "target": self.target, "score": self.score}
        some = {
            "token_attribution": self.token_attribution,
            "saliency_map": self.saliency_map,
            "residual": self.residual,
            "standard_error": self.standard_error,
            "reached": self.reached,
        }
        arrays |= {k: v for k, v in some.items() if v is not None}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays, **{f"outputs/{k}": v for k, v in self.outputs.items()})  # type: ignore[arg-type]
        write_whole(target, buffer.getvalue())
        write_whole(name.with_name(f"{name.name}.json"), (json.dumps(self.summary, indent=2, default=str) + "\n").encode())
        return target

    def plot(self, index: int = 0, ax: Any = None, picture: Any = None) -> Any:
        """One sample as a PIL picture, which a notebook shows; or drawn on matplotlib's axes ``ax``, which are returned.

        The words of a text are coloured, and the columns of a row are bars. A map lies over what the sample is shown as, where that is
        known, or over ``picture``: an image, or RGB bytes [H, W, 3]; of a series its values [C, L], of a volume [C, D, H, W].
        Raises ``InputError`` without a map, ``MissingLibraryError`` where matplotlib draws and is not there.
        """
        from onnxsal.runtime.columns import by_column
        from onnxsal.runtime.drawn import draw
        from onnxsal.runtime.figures import draw_on, image_of, new_figure
        from onnxsal.runtime.heatmap import scale_map
        from onnxsal.runtime.row_figure import draw_row, row_figure
        from onnxsal.runtime.text_figure import draw_text

        one = self[index] if picture is None else replace(self[index], shown=(shown_as(picture),))
        shown = one.shown[0] if one.shown else None
        if isinstance(shown, ShownText) and one.by_token is not None:
            page = None if ax is not None else new_figure(*PAGE)
            drawn = draw_text(ax if page is None else page.subplots(), shown, one.by_token[0])
            return drawn if page is None else image_of(page, tight=True)
        if isinstance(shown, ShownRow) and one.saliency_map is None:
            values = by_column(shown, one.attribution[0])
            return image_of(row_figure(shown, values, one._title(0))) if ax is None else draw_row(ax, shown, values)
        if one.saliency_map is None:
            raise InputError("the explained input is no picture, series or volume, so there is no saliency map to plot; see .attribution.")
        if ax is None:
            return draw(scale_map(one.saliency_map[0], places=one.saliency_map.ndim - 1), shown)
        draw_on(ax, one)
        ax.set_title(one._title(0).replace(": ", "\n", 1), fontsize="small")
        return ax


def _short(value: Any) -> Any:
    """A setting as a title holds it: of many numbers, how many."""
    return f"<{np.size(value)} numbers>" if isinstance(value, list | tuple) and np.size(value) > FEW else value

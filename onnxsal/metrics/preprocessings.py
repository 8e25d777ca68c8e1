"""Which preprocessing a model was trained with, by what it answers: the plausible ones are tried on pictures and held against each other.

Every picture is looked at several times, in parts and mirrored. Where its class is known, what counts is how probable the model finds it;
where not, how probable each look makes what the other looks say, so answers must be confident and stable at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from onnxsal.ask.picture_input import AS_THEY_ARE, PictureInput
from onnxsal.errors import InputError, ModelError
from onnxsal.metrics.scorer import Scorer
from onnxsal.runtime.preprocess import LAYOUTS, Preprocess, Size, as_type
from onnxsal.runtime.presets import PRESETS, Preset

VALUES = {"unit": "0..1", "tf": "-1..1", "imagenet": "imagenet", "caffe": "minus mean", "rgb": "0..255"}
"""The presets whose numbers are tried -> what the table calls them. (CLIP's lie between two of them, and its models have no classes.)"""

SIZES = (224, 32, 384)
"""What is tried where the model leaves the size open."""

RUNS = 36
"""Looks at all pictures together, about, by which each candidate is judged."""

MOST_LOOKS, LEAST_LOOKS, LEAST_OF_KNOWN = 12, 4, 2
"""Looks at one picture, at most and at least; those at a picture of known class need not be held against each other."""

MOST_PICTURES, MOST_OF_KNOWN = 24, 48
"""Of more pictures so many are taken, evenly; the latter of pictures of known classes."""

LEAST_PICTURES = 3
"""Fewer pictures decide nothing."""

UNITS = 6
"""From so many pictures on, it is they that vary by chance; of fewer, their looks are all there is to tell chance by."""

FLOOR = 1e-6
"""The least probability that is told apart from none."""

MARGIN, ERRORS = 0.1, 2.5
"""The leader is ahead of another by so many nats at least, and by so many standard errors."""

ALIKE = 0.05
"""Candidates whose answers differ by less, in total variation, mean the same to the model."""


@dataclass(frozen=True)
class Candidate:
    """A preprocessing that may be the one, and the words of its row."""

    how: Preprocess
    values: str
    part: str = ""


@dataclass(frozen=True)
class Tried:
    """What the model answered to a candidate. ``evidence`` [pictures, looks]: the logarithm of the probability of the class, or of what the
    other looks say. ``answers`` [pictures, classes]: the mean probabilities of each picture. The rest are means over pictures and looks.
    """

    candidate: Candidate
    evidence: np.ndarray
    answers: np.ndarray
    confidence: float
    agreement: float
    entropy: float
    accuracy: float | None = None

    @property
    def mean(self) -> float:
        """The mean of the evidence, in nats: 0 is certainty."""
        return float(self.evidence.mean())


@dataclass(frozen=True)
class Lead:
    """How far one is ahead of another, in nats: the mean, its standard error, the share of pictures on which it is, whether both mean the
    same to the model, and whether that decides.
    """

    mean: float
    error: float
    ahead: float
    alike: bool = False

    @property
    def decides(self) -> bool:
        """Whether it is more than chance."""
        return self.mean >= MARGIN and self.mean >= ERRORS * self.error and self.ahead > 0.5


@dataclass(frozen=True)
class Ranked:
    """All that were tried, the best first; ``refused`` says why the model did not run on others; ``open`` why none is decided ('' = the
    first is the one).
    """

    tried: tuple[Tried, ...]
    refused: dict[str, str] = field(default_factory=dict)
    open: str = ""
    labelled: bool = False

    def lead(self, number: int) -> Lead:
        """How far the first is ahead of another."""
        return lead(self.tried[0], self.tried[number])


def lead(first: Tried, second: Tried) -> Lead:
    """How far ``first`` is ahead of ``second``, on the same looks at the same pictures."""
    gap = first.evidence - second.evidence
    pictures = gap.mean(1)
    units = pictures if len(pictures) >= UNITS else gap.reshape(-1)
    error = float(units.std(ddof=1) / math.sqrt(units.size)) if units.size > 1 else math.inf
    apart = float(np.abs(first.answers - second.answers).sum(1).mean() / 2)
    return Lead(float(gap.mean()), error, float((pictures > 0).mean()), apart < ALIKE)


# ----- what is tried -----


def candidates(found: PictureInput, sizes: Sequence[Size]) -> list[Candidate]:
    """The plausible preprocessings of what a model leaves open: colour order, values, layout and size, of the centre square."""
    told = None if found.whole is None else AS_THEY_ARE[found.whole]
    presets = {n: PRESETS[n] for n in VALUES if told in (None, n) and len(PRESETS[n].mean) in (1, found.depth or 3)}
    orders = (found.channels,) if found.channels else ("RGB", "BGR")
    return [
        Candidate(_made(preset, order, size, layout, found.dtype), VALUES[name])
        for size in ((found.size,) if found.size else sizes)
        for layout in ((found.layout,) if found.layout else LAYOUTS)
        for name, preset in presets.items()
        for order in orders
    ]


def _made(preset: Preset, order: str, size: Size, layout: str, dtype: str) -> Preprocess:
    """The numbers of a preset for colours in this order."""
    turn = -1 if preset.channels != order and order != "GRAY" else 1
    mean, std = preset.mean[::turn], preset.std[::turn]
    return Preprocess(preset.scale, mean, std, layout, order, size, crop_pct=1.0, interpolation="bicubic", dtype=dtype)


PARTS: dict[str, float | None] = {"centre, 87.5 %": 0.875, "centre": 1.0, "all, stretched": None}
"""Which part of a picture may be seen -> the fraction that is kept; the usual one first."""


def in_parts(chosen: Candidate) -> list[Candidate]:
    """The same with each part of the picture that may be seen."""
    return [Candidate(replace(chosen.how, crop_pct=kept), chosen.values, part) for part, kept in PARTS.items()]


# ----- looks -----

WIDE, NEAR = 0.35, 0.8
"""The least share of a picture's area that a look sees: for colours and values, and for the part that is seen."""


def looks(picture: np.ndarray, count: int, least: float) -> Iterator[Image.Image]:
    """``count`` parts of a picture in its own proportions, every other one mirrored; the first is all of it. The same for all pictures."""
    image, draw = Image.fromarray(picture), np.random.default_rng(0)
    for number in range(count):
        share = math.sqrt(draw.uniform(least, 1)) if number else 1.0
        left, top = draw.uniform(size=2)
        width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
        x, y = round(left * (image.width - width)), round(top * (image.height - height))
        part = image.crop((x, y, x + width, y + height))
        yield part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else part


# ----- trying -----


@dataclass
class Trial:
    """A model and pictures, RGB bytes [H, W, 3] each, with the index of the class of each where all are known."""

    scorer: Scorer
    pictures: Sequence[np.ndarray]
    classes: Sequence[int] | None = None
    tell: Callable[[str], None] = lambda text: None
    _seen: dict[tuple[object, ...], np.ndarray] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The looks at each picture."""
        least = LEAST_LOOKS if self.classes is None else LEAST_OF_KNOWN
        return min(max(RUNS // len(self.pictures), least), MOST_LOOKS)

    def of(self, given: Sequence[Candidate], least: float = WIDE) -> Ranked:
        """Each candidate on every look; those that the model does not run on are left out. Raises ``InputError`` where that are all."""
        tried, refused = [], dict[str, str]()
        for candidate in given:
            self.tell(words(candidate))
            try:
                tried.append(self._one(candidate, least))
            except (InputError, ModelError) as error:
                refused[words(candidate)] = str(error)
        if not tried:
            raise InputError("the model runs on none of the ways that were tried:\n" + "\n".join(f"{k}: {v}" for k, v in refused.items()))
        tried.sort(key=lambda one: -one.mean)
        found = Ranked(tuple(tried), refused, labelled=self.classes is not None)
        return replace(found, open=_why_open(found))

    def _one(self, candidate: Candidate, least: float) -> Tried:
        how, session = candidate.how, self.scorer.session
        x = as_type(how.normalise(self._pixels(how, least)), session.inputs[0].dtype, session.inputs[0].name)
        p = self.scorer.probabilities(x).reshape(len(self.pictures), self.count, -1)
        p = p / np.maximum(p.sum(2, keepdims=True), FLOOR)  # of labels that may all be true, how they share the answer
        log = np.log(np.maximum(p, FLOOR))
        mean, best = p.mean(1), p.argmax(2)
        if self.classes is None:
            others = (mean[:, None] * self.count - p) / (self.count - 1)
            evidence, accuracy = (others * log).sum(2), None
        else:
            truth = np.asarray(self.classes)
            evidence, accuracy = log[np.arange(len(truth)), :, truth], float((best == truth[:, None]).mean())
        agreement, entropy = (best == mean.argmax(1)[:, None]).mean(), -(p * log).sum(2).mean()
        return Tried(candidate, evidence, mean, float(p.max(2).mean()), float(agreement), float(entropy), accuracy)

    def _pixels(self, how: Preprocess, least: float) -> np.ndarray:
        """What the model would see of every look, RGB bytes [pictures * looks, H, W, 3]; made once for all colours and values."""
        key = (how.resize, how.crop_pct, how.channels == "GRAY", least)
        if key not in self._seen:
            every = [how.display(look) for picture in self.pictures for look in looks(picture, self.count, least)]
            self._seen[key] = np.stack(every)
        return self._seen[key]


def words(candidate: Candidate) -> str:
    """A candidate in a line."""
    rows, columns = candidate.how.size or (0, 0)
    said = (candidate.how.channels, candidate.values, candidate.how.layout, f"{rows}x{columns}", candidate.part)
    return ", ".join(filter(None, said))


def _why_open(found: Ranked) -> str:
    """Why the first is not decided to be the one ('' = it is)."""
    best, pictures = found.tried[0], len(found.tried[0].answers)
    rivals = [(n, ahead) for n in range(1, len(found.tried)) if not (ahead := found.lead(n)).alike and not ahead.decides]
    if not rivals and len(found.tried) == 1:
        return ""
    if pictures < LEAST_PICTURES:
        return f"{pictures} picture(s) decide nothing; give {LEAST_PICTURES} or more, of different things"
    if not found.labelled and len(set(best.answers.argmax(1).tolist())) == 1:
        return "the first gives one and the same answer to every picture, as a wrongly fed model does; give pictures of different things"
    if rivals:
        number, ahead = rivals[0]
        listed = ", ".join(str(n + 1) for n, _ in rivals[:5])
        return (
            f"the lead of the first over {listed} is within chance, or small (over {number + 1}: {ahead.mean:.2f} nats, standard error "
            f"{ahead.error:.2f}, ahead on {ahead.ahead:.0%} of the pictures)"
        )
    return ""

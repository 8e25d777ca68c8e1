"""Sums without rounding: whole numbers times a power of two, which no order of adding, no library and no machine changes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

LIMB = 32
"""Bits of the whole numbers that values are cut into: times a weight below 2^4 and 2^12 rows they stay below 2^53, the end of exactness."""

AT_ONCE = 2**12
"""Rows that may be weighted at a time, for that reason."""

DIGIT = 62
"""Bits of a digit of fixed point sums where they are written."""

FURTHEST = 2200
"""Exponents lie within this: the square of the smallest float64 is 2^-2148."""


@dataclass(frozen=True, eq=False)
class FixedSums:
    """Sums ``numbers`` [k] (whole numbers of any size, as objects) times 2^``exponent``."""

    numbers: np.ndarray
    exponent: int

    @classmethod
    def zero(cls, count: int) -> FixedSums:
        """Nothing added yet: what it is added to stays what it is, its exponent included."""
        return cls(np.zeros(count, np.int64).astype(object), 0)

    def __add__(self, other: FixedSums) -> FixedSums:
        low = min(self.exponent, other.exponent)
        return FixedSums(self.at(low) + other.at(low), low)

    def at(self, exponent: int) -> np.ndarray:
        """The numbers for an exponent that is no larger."""
        return self.numbers << (self.exponent - exponent) if exponent < self.exponent else self.numbers

    def spread(self, places: Sequence[int], count: int) -> FixedSums:
        """``count`` sums, of which these stand at ``places`` and the others are zero."""
        numbers = FixedSums.zero(count).numbers
        numbers[list(places)] = self.numbers
        return FixedSums(numbers, self.exponent)

    def rounded(self) -> FixedSums:
        """Rounded to one digit: off by at most 2^-61 of the largest."""
        drop = _bits(self.numbers) - (DIGIT - 1)
        return self if drop <= 0 else FixedSums((self.numbers + (1 << (drop - 1))) >> drop, self.exponent + drop)

    def within(self, most: Fraction | int) -> bool:
        """Whether no sum is larger than ``most``, but for what ``rounded`` may add."""
        largest = max(int(self.numbers.max()), -int(self.numbers.min())) if len(self.numbers) else 0
        return largest * Fraction(2) ** self.exponent <= most * (1 + Fraction(1, 2**50))

    def whole(self) -> np.ndarray:
        """The sums as int64, where they are whole and small."""
        return (self.numbers << self.exponent if self.exponent >= 0 else self.numbers >> -self.exponent).astype(np.int64)

    def over(self, weights: np.ndarray) -> np.ndarray:
        """sums / weights [k] in float64, rounded once; NaN where a weight is 0."""
        up, down = max(self.exponent, 0), max(-self.exponent, 0)
        pairs = zip(self.numbers.tolist(), weights.tolist(), strict=True)
        return np.array([(number << up) / (weight << down) if weight else math.nan for number, weight in pairs], np.float64)

    def digits(self) -> list[np.ndarray]:
        """int64 arrays d with numbers = sum_i d[i] 2^(62 i): all but the last are from 0 to 2^62 - 1, the last one has the sign."""
        rest, found = self.numbers, list[np.ndarray]()
        for _ in range(max(1, -(-_bits(rest) // DIGIT)) - 1):
            found.append((rest & ((1 << DIGIT) - 1)).astype(np.int64))
            rest = rest >> DIGIT
        return [*found, rest.astype(np.int64)]

    @classmethod
    def of_digits(cls, digits: Sequence[np.ndarray], exponent: int) -> FixedSums:
        """What ``digits`` were made of."""
        numbers = digits[-1].astype(object)
        for digit in reversed(digits[:-1]):
            numbers = (numbers << DIGIT) + digit.astype(object)
        return cls(numbers, exponent)


def _bits(numbers: np.ndarray) -> int:
    """Bits of the longest of whole numbers, without a sign."""
    return max((n if n >= 0 else ~n).bit_length() for n in (int(numbers.max()), int(numbers.min()))) if len(numbers) else 0


def limbs(values: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Finite float64 values [n] as (e, p) with values = sum p 2^(32 e) exactly, p whole, |p| < 2^32, of the sign of the value."""
    rest, found = values.astype(np.float64), list[tuple[int, np.ndarray]]()
    while (most := np.abs(rest).max(initial=0.0)) > 0:
        place = (int(np.frexp(most)[1]) - 1) // LIMB
        part = np.trunc(np.ldexp(rest, -LIMB * place))
        rest = rest - np.ldexp(part, LIMB * place)
        found.append((place, part))
    return found


def weighted_sums(weights: np.ndarray, columns: Sequence[np.ndarray]) -> list[FixedSums]:
    """sum_i weights[b, i] x_i for every column x [n] of finite values, without rounding; whole ``weights`` [k, n] from 0 to 15, n <= 4096.

    One product of matrices in float64 over the limbs of all columns, in which nothing can be rounded, however it is ordered.
    """
    split = [limbs(column) for column in columns]
    parts = [part for each in split for _, part in each]
    products = (weights.astype(np.float64) @ np.stack(parts, 1)).astype(np.int64) if parts else np.zeros((len(weights), 0), np.int64)
    found, at = list[FixedSums](), 0
    for each in split:
        total = FixedSums.zero(len(weights))
        for place, _ in each:
            total += FixedSums(products[:, at].astype(object), LIMB * place)
            at += 1
        found.append(total)
    return found


def moments(values: np.ndarray) -> tuple[Fraction, Fraction]:
    """Sum and sum of squares of finite float64 values [n], without rounding."""
    mantissas, exponents = np.frexp(values)
    low = int(exponents.min(initial=0))
    wholes = np.ldexp(mantissas, 53).astype(np.int64).tolist()
    total = squares = 0
    for whole, up in zip(wholes, (exponents - low).tolist(), strict=True):
        total += whole << up
        squares += whole * whole << 2 * up
    unit = Fraction(2) ** (low - 53)
    return total * unit, squares * unit * unit


def root(number: Fraction) -> float:
    """The square root in float64, rounded from 64 bits or more."""
    if number <= 0:
        return 0.0
    up = 2 * (64 - (number.numerator.bit_length() - number.denominator.bit_length()) // 2)
    scaled = (number.numerator << up) // number.denominator if up >= 0 else number.numerator // (number.denominator << -up)
    return math.ldexp(math.isqrt(scaled), -up // 2)


def text_of(number: Fraction) -> str:
    """A number whose denominator is a power of two as C writes it: ``-0x1a3p-53``."""
    zeros = (number.numerator & -number.numerator).bit_length() - 1 if number else 0
    exponent = zeros - (number.denominator.bit_length() - 1)
    return f"{'-' * (number < 0)}0x{abs(number.numerator) >> zeros:x}p{exponent}"


WRITTEN = r"^(-?)0x([0-9a-f]{1,1200})p(-?[0-9]{1,4})$"


def number_of(text: str) -> Fraction | None:
    """What ``text_of`` wrote; ``None`` for anything else."""
    found = re.fullmatch(WRITTEN, text)
    if found is None or abs(int(found[3])) > 2 * FURTHEST:
        return None
    return (-1 if found[1] else 1) * int(found[2], 16) * Fraction(2) ** int(found[3])

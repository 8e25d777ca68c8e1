"""RNN, GRU and LSTM as the standard says, step by step in NumPy; onnx's own evaluator knows neither lengths, clips nor activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray
Function = Callable[[Array, float, float], Array]

ACTIVATIONS: dict[str, tuple[int, float, float, Function]] = {
    "Affine": (2, 1.0, 0.0, lambda x, a, b: a * x + b),
    "Elu": (1, 1.0, 0.0, lambda x, a, b: np.where(x >= 0, x, a * (np.exp(x) - 1))),
    "HardSigmoid": (2, 0.2, 0.5, lambda x, a, b: np.clip(a * x + b, 0, 1)),
    "LeakyRelu": (1, 0.01, 0.0, lambda x, a, b: np.where(x >= 0, x, a * x)),
    "Relu": (0, 0.0, 0.0, lambda x, a, b: np.maximum(x, 0)),
    "ScaledTanh": (2, 1.0, 1.0, lambda x, a, b: a * np.tanh(b * x)),
    "Sigmoid": (0, 0.0, 0.0, lambda x, a, b: 1 / (1 + np.exp(-x))),
    "Softplus": (0, 0.0, 0.0, lambda x, a, b: np.log1p(np.exp(x))),
    "Softsign": (0, 0.0, 0.0, lambda x, a, b: x / (1 + np.abs(x))),
    "Tanh": (0, 0.0, 0.0, lambda x, a, b: np.tanh(x)),
    "ThresholdedRelu": (1, 1.0, 0.0, lambda x, a, b: np.where(x >= a, x, 0)),
}
"""Name -> (how many parameters it takes, their defaults, the function)."""


def functions(names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None) -> list[Callable[[Array], Array]]:
    alpha, beta = list(alphas or []), list(betas or [])
    chosen = []
    for name in names:
        takes, a, b, function = ACTIVATIONS[name]
        a = alpha.pop(0) if takes > 0 and alpha else a
        b = beta.pop(0) if takes > 1 and beta else b
        chosen.append(lambda x, a=a, b=b, function=function: function(x, a, b))
    return chosen


class Recurrent(OpRun):
    """Runs ``cell`` over the steps of each direction; states stay as they are beyond the end of a sequence, where Y is 0."""

    op_domain = ""
    gates = 1
    defaults = ("Tanh",)

    def cell(self, f: Any, clip: Any, x: Array, h: Array, c: Array, w: Array, r: Array, wb: Array, rb: Array, p: Array, flag: int) -> Any:
        raise NotImplementedError

    def unroll(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None,
        lens: Array | None,
        h0: Array | None,
        c0: Array | None,
        p: Array | None,
        flag: int,
        direction: str,
        activations: Sequence[str] | None,
        alpha: Sequence[float] | None,
        beta: Sequence[float] | None,
        bound: float | None,
    ) -> tuple[Array, Array, Array]:
        directions, hidden, (steps, samples, _) = w.shape[0], r.shape[2], x.shape
        clip = (lambda a: np.clip(a, -bound, bound)) if bound else (lambda a: a)
        f = functions(activations or self.defaults * directions, alpha, beta)
        y = np.zeros((steps, directions, samples, hidden), x.dtype)
        y_h, y_c = np.zeros((2, directions, samples, hidden), x.dtype)
        zero = np.zeros((samples, hidden), x.dtype)
        lens = np.full(samples, steps) if lens is None else lens
        for d in range(directions):
            own = f[d * len(self.defaults) : (d + 1) * len(self.defaults)]
            wb, rb = np.split(np.zeros(2 * self.gates * hidden, x.dtype) if b is None else b[d], 2)
            peep = np.zeros(3 * hidden, x.dtype) if p is None else p[d]
            h, c = zero if h0 is None else h0[d], zero if c0 is None else c0[d]
            order = range(steps)[::-1] if direction == "reverse" or d else range(steps)
            for t in order:
                new_h, new_c = self.cell(own, clip, x[t], h, c, w[d], r[d], wb, rb, peep, flag)
                inside = (t < lens)[:, None]
                h, c, y[t, d] = np.where(inside, new_h, h), np.where(inside, new_c, c), np.where(inside, new_h, 0)
            y_h[d], y_c[d] = h, c
        return y, y_h, y_c


class RNN(Recurrent):
    def cell(self, f, clip, x, h, c, w, r, wb, rb, p, flag):
        return f[0](clip(x @ w.T + wb + h @ r.T + rb)), c

    def _run(self, x, w, r, b=None, lens=None, h0=None, activation_alpha=None, activation_beta=None, activations=None, clip=None,
             direction=None, hidden_size=None, layout=None):  # fmt: skip
        return self.unroll(x, w, r, b, lens, h0, None, None, 0, direction, activations, activation_alpha, activation_beta, clip)[:2]


class GRU(Recurrent):
    gates = 3
    defaults = ("Sigmoid", "Tanh")

    def cell(self, f, clip, x, h, c, w, r, wb, rb, p, flag):
        n = h.shape[1]
        (xz, xr, xn), (hz, hr, hn) = np.split(x @ w.T + wb, 3, -1), np.split(h @ r.T + rb, 3, -1)
        update, reset = f[0](clip(xz + hz)), f[0](clip(xr + hr))
        inner = reset * hn if flag else (reset * h) @ r[2 * n :].T + rb[2 * n :]
        return (1 - update) * f[1](clip(xn + inner)) + update * h, c

    def _run(self, x, w, r, b=None, lens=None, h0=None, activation_alpha=None, activation_beta=None, activations=None, clip=None,
             direction=None, hidden_size=None, layout=None, linear_before_reset=None):  # fmt: skip
        flag = int(linear_before_reset or 0)
        return self.unroll(x, w, r, b, lens, h0, None, None, flag, direction, activations, activation_alpha, activation_beta, clip)[:2]


class LSTM(Recurrent):
    gates = 4
    defaults = ("Sigmoid", "Tanh", "Tanh")

    def cell(self, f, clip, x, h, c, w, r, wb, rb, p, flag):
        (ai, ao, af, ac), (pi, po, pf) = np.split(x @ w.T + wb + h @ r.T + rb, 4, -1), np.split(p, 3)
        i = f[0](clip(ai + pi * c))
        forget = 1 - i if flag else f[0](clip(af + pf * c))
        new = forget * c + i * f[1](clip(ac))
        return f[0](clip(ao + po * new)) * f[2](new), new

    def _run(self, x, w, r, b=None, lens=None, h0=None, c0=None, p=None, activation_alpha=None, activation_beta=None, activations=None,
             clip=None, direction=None, hidden_size=None, input_forget=None, layout=None):  # fmt: skip
        flag = int(input_forget or 0)
        return self.unroll(x, w, r, b, lens, h0, c0, p, flag, direction, activations, activation_alpha, activation_beta, clip)

"""Calls that are too small for their arithmetic to count: what a call costs besides it."""

import numpy as np

from . import common

N, T, D, H, V = 2, 3, 20, 40, 40

WIDE = common.named(step=(1, 1, 512, 512))
"""A step whose weights are read once: packing them would cost several times the product."""


def layers():
    """Arguments and incoming gradients of the layers that are no cells, by what their functions begin with."""
    words = np.random.default_rng(0).integers(V, size=(N, T))
    h, dh = common.normal((N, T, H), "float32"), common.normal((N, T, D), "float32")
    scores, mask = common.normal((N, T, V), "float32"), np.ones((N, T), np.float32)
    return {
        "word_embedding": ((words, common.normal((V, D), "float32")), (dh,)),
        "temporal_affine": ((h, common.normal((H, V), "float32"), common.normal((V,), "float32")), (scores,)),
        "temporal_softmax": ((scores, words, mask), ()),
        "sigmoid": ((h,), ()),
    }


def cell(name, sizes, is_step, state_dtype="float32"):
    """Arguments and incoming gradients of a cell in float32."""
    N, T, D, H = sizes
    columns = common.GATES[name] * H
    states = 2 if name == "lstm" and is_step else 1
    x, dh = common.normal((N, T, D), "float32"), common.normal((N, T, H), "float32")
    weights = ((D, columns), D**-0.5), ((H, columns), H**-0.5), ((columns,), 0.1)
    arguments = (
        x[:, 0].copy() if is_step else x,
        *(np.zeros((N, H), state_dtype) for _ in range(states)),
        *(common.normal(shape, "float32", scale) for shape, scale in weights),
    )
    return arguments, (dh[:, 0].copy() if is_step else dh,) * states


class Repeated(common.Timed):
    """Many calls of one function, for a single one is too short for the clock; its arguments are ready."""

    def prepare(self, forward, arguments, backward=None, gradients=()):
        self.call, self.arguments = forward, arguments
        if backward is not None:
            *_, cache = forward(*arguments)
            self.call, self.arguments = backward, (*gradients, cache)
        self.call(*self.arguments)

    def run(self, calls):
        call, arguments = self.call, self.arguments
        for _ in range(calls):
            call(*arguments)


class Functions(Repeated):
    """Every function at 2, 3, 20, 40, 40, with plain NumPy beside it."""

    FORWARD = ("word_embedding", "temporal_affine")
    CELLS = tuple(f"{cell}{step}" for cell in common.GATES for step in ("", "_step"))
    param_names = ("function", "implementation")
    params = (
        (*(f"{name}_{way}" for name in (*CELLS, *FORWARD) for way in ("forward", "backward")),
         "temporal_softmax_loss", "sigmoid"),
        (common.ONE_THREAD, common.NUMPY),
    )  # fmt: skip

    def setup(self, name, implementation):
        module = common.implementation(implementation)
        stem, _, way = name.rpartition("_")
        is_step = stem.endswith("_step")
        kind = stem.removesuffix("_step")
        if kind in common.GATES:
            arguments, gradients = cell(kind, (N, T, D, H), is_step)
        else:
            arguments, gradients = layers()[stem or name]
        if way != "backward":
            self.prepare(common.function(module, name), arguments)
            return
        forward = common.function(module, f"{stem}_forward")
        self.prepare(forward, arguments, common.function(module, name), gradients)

    def time_100_calls(self, *_):
        self.run(100)


class WideSteps(Repeated):
    """One row through large weights, and states of float64 beside weights of float32."""

    param_names = ("cell", "case")
    params = (tuple(common.GATES), ("forward", "backward", "forward, float64 states"))

    def setup(self, name, case):
        module = common.implementation(common.ONE_THREAD)
        forward, backward = (common.function(module, f"{name}_step_{way}") for way in ("forward", "backward"))
        sizes = next(iter(WIDE.values()))
        arguments, gradients = cell(name, sizes, True, "float64" if "float64" in case else "float32")
        self.prepare(forward, arguments, backward if case == "backward" else None, gradients)

    def time_10_steps_of_512_units(self, *_):
        self.run(10)

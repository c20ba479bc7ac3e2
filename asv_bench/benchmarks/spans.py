"""Options of passes over sequences, each beside a plain pass with as many steps: they cost what arithmetic they do."""

import functools
import inspect

import numpy as np

from . import common

SIZES = common.named(tiny=(4, 8, 4, 8), episodes=(16, 128, 32, 128), captioning=(50, 17, 256, 512))
OPTIONS = "plain", "lengths", "whole", "reverse", "resets", "last", "clip", "clip_gates"


def options_of(name, N, T):
    """Arguments of a call with about N * T useful steps, and how many steps its arrays have."""
    rng = np.random.default_rng(0)
    if name == "lengths":
        lengths = np.linspace(1, 2 * T - 1, N).round().astype(np.int64)  # T in the mean
        return {"lengths": rng.permutation(lengths)}, 2 * T
    if name == "resets":
        return {"resets": rng.random((N, T)) < 4 / T}, T
    if name == "whole":
        return {"lengths": np.full(N, T)}, T
    if name == "clip":  # with peepholes of zero
        return {"cell_clip": 3.0}, T
    if name == "clip_gates":
        return {"clip": 3.0}, T
    return {"plain": {}, "reverse": {"reverse": True}, "last": {"outputs": "last"}}[name], T


class Options(common.Timed):
    """Inference, and forward with backward."""

    param_names = ("option", "workload", "cell", "dtype")
    params = OPTIONS, tuple(SIZES), ("lstm", "gru", "rnn"), ("float32",)

    def setup(self, option, workload, cell, dtype):
        self.forward, self.backward, self.dh = make_calls(option, SIZES[workload], cell, dtype)

    def time_inference(self, *_):
        self.forward(keep_cache=False)

    def time_training(self, *_):
        _, cache = self.forward()
        self.backward(self.dh, cache)


@functools.cache
def make_calls(option, sizes, cell, dtype):
    """Functions that have their arguments, and a gradient."""
    N, T, D, H = sizes
    options, steps = options_of(option, N, T)
    layer = common.Layer(cell, (N, steps, D, H), dtype, common.ONE_THREAD)
    if not options.keys() <= inspect.signature(layer._forward).parameters.keys():
        raise NotImplementedError(f"this commit has no {option}")
    dh = layer.dh[:, -1].copy() if option == "last" else layer.dh
    return functools.partial(layer._forward, *layer.arguments, **options), layer._backward, dh

"""Stacks of layers: what lies between the layers, and two directions side by side."""

import numpy as np

import rnnkernels

from . import common

SIZES = common.named(tiny=(4, 8, 4, 8), speech=(8, 200, 40, 128))
KINDS = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "two directions": {"bidirectional": True},
    "dropout": {"num_layers": 2, "dropout": 0.2},
}


class Stack(common.Timed):
    """Inference, and forward with backward, of an LSTM."""

    param_names = ("kind", "workload", "dtype")
    params = tuple(KINDS), tuple(SIZES), ("float32",)

    def setup(self, kind, workload, dtype):
        N, T, D, H = SIZES[workload]
        if not hasattr(rnnkernels, "StackStream"):
            raise NotImplementedError("this commit has no stacks")
        self.rng = np.random.default_rng(0)
        self.layer = rnnkernels.LSTM.create(D, H, dtype=dtype, rng=self.rng, **KINDS[kind])
        self.x = common.normal((N, T, D), dtype)
        self.dh = np.ones((N, T, (2 if self.layer.bidirectional else 1) * H), dtype)

    def time_inference(self, *_):
        self.layer.forward(self.x, keep_cache=False)

    def time_training(self, *_):
        _, cache = self.layer.forward(self.x, rng=self.rng)
        self.layer.backward(self.dh, cache)

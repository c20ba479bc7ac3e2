"""The masked softmax loss, alone and with the affine layer that makes its scores."""

import numpy as np

from . import common

WORKLOADS = common.named(  # N, T, V words
    char_rnn=(50, 50, 96),
    PTB_medium=(20, 35, 10_000),
)


FUSED_WORKLOADS = common.named(  # N, T, D, V words
    sampling=(1, 1, 16, 30),
    char_rnn=(50, 50, 128, 96),
    captioning=(50, 17, 512, 10_000),
)


class TemporalSoftmaxLoss(common.Timed):
    param_names = ("workload", "dtype", "implementation")
    params = (tuple(WORKLOADS), common.DTYPES, (common.ONE_THREAD, common.ALL_THREADS, common.NUMPY))

    def setup(self, workload, dtype, implementation):
        N, T, V = WORKLOADS[workload]
        rng = np.random.default_rng(0)
        self.arguments = common.normal((N, T, V), dtype), rng.integers(V, size=(N, T)), rng.random((N, T)) < 0.9
        self.loss = common.function(common.implementation(implementation), "temporal_softmax_loss")
        self.loss(*(argument[:1, :1] for argument in self.arguments))

    def time_loss_and_gradient(self, *_):
        self.loss(*self.arguments)


def fused_arguments(workload, dtype):
    """Arguments of the fused loss, nine of ten of whose steps count."""
    N, T, D, V = FUSED_WORKLOADS[workload]
    rng = np.random.default_rng(0)
    weights = common.normal((D, V), dtype, D**-0.5), common.normal((V,), dtype)
    return common.normal((N, T, D), dtype), *weights, rng.integers(V, size=(N, T)), rng.random((N, T)) < 0.9


class TemporalAffineSoftmaxLoss(common.Timed):
    param_names = ("workload", "dtype", "implementation")
    params = (tuple(FUSED_WORKLOADS), common.DTYPES, (common.ONE_THREAD, common.ALL_THREADS, common.NUMPY))

    def setup(self, workload, dtype, implementation):
        self.arguments = fused_arguments(workload, dtype)
        module = common.implementation(implementation)
        self.fused = common.function(module, "temporal_affine_softmax_loss")
        self.forward = common.function(module, "temporal_affine_forward")
        self.backward = common.function(module, "temporal_affine_backward")
        self.loss = common.function(module, "temporal_softmax_loss")
        x, w, b, y, mask = self.arguments
        self.fused(x[:1, :1, :2], w[:2, :2], b[:2], y[:1, :1] % 2, mask[:1, :1])

    def time_loss_and_gradients(self, *_):
        self.fused(*self.arguments)

    def time_three_functions(self, *_):
        x, w, b, y, mask = self.arguments
        scores, cache = self.forward(x, w, b)
        _, dscores = self.loss(scores, y, mask)
        self.backward(dscores, cache)


class TemporalAffineSoftmaxLossMemory:
    """Peak memory of a call beyond its results; an array of all scores has 34 MB."""

    param_names = ("workload", "dtype", "implementation")
    params = (tuple(FUSED_WORKLOADS)[-1:], ("float32",), (common.ONE_THREAD, common.NUMPY))
    unit = "bytes"

    def setup(self, workload, dtype, implementation):
        self.arguments = fused_arguments(workload, dtype)
        self.fused = common.function(common.implementation(implementation), "temporal_affine_softmax_loss")
        self.fused(*self.arguments)

    def track_memory(self, *_):
        return common.peak_bytes(lambda: self.fused(*self.arguments)[1:])

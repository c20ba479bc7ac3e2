"""The masked softmax loss."""

import numpy as np

from . import common

WORKLOADS = common.named(  # N, T, V words
    char_rnn=(50, 50, 96),
    PTB_medium=(20, 35, 10_000),
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

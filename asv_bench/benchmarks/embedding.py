"""The word embedding."""

import numpy as np

from . import common

WORKLOADS = common.named(  # N, T, D, V words
    captioning=(50, 17, 256, 1000),
    PTB_medium=(20, 35, 650, 10_000),
    corpus=(128, 512, 320, 10_000),
)


class WordEmbedding(common.Timed):
    param_names = ("workload", "dtype", "implementation")
    params = (tuple(WORKLOADS), common.DTYPES, (common.ONE_THREAD, common.ALL_THREADS, common.NUMPY))

    def setup(self, workload, dtype, implementation):
        N, T, D, V = WORKLOADS[workload]
        self.x = np.random.default_rng(0).integers(V, size=(N, T))
        self.W = common.normal((V, D), dtype)
        self.dout = common.normal((N, T, D), dtype)
        module = common.implementation(implementation)
        self.forward = common.function(module, "word_embedding_forward")
        self.inference = common.without_cache(self.forward)
        self.backward = common.function(module, "word_embedding_backward")
        self.train(np.zeros((1, 1), self.x.dtype), self.W[:2, :2], self.dout[:1, :1, :2])

    def train(self, x, W, dout):
        _, cache = self.forward(x, W)
        self.backward(dout, cache)

    def time_inference(self, *_):
        self.inference(self.x, self.W)

    def time_training(self, *_):
        self.train(self.x, self.W, self.dout)

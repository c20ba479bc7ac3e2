"""The word embedding."""

import functools

import numpy as np

from . import common

WORKLOADS = common.named(  # N, T, D, V words
    captioning=(50, 17, 256, 1000),
    PTB_medium=(20, 35, 650, 10_000),
    corpus=(128, 512, 320, 10_000),
)


@functools.cache
def make_words(workload):
    """The same words each time."""
    N, T, _, V = WORKLOADS[workload]
    return np.random.default_rng(0).integers(V, size=(N, T))


@functools.cache
def make_cache(workload, dtype, forward):
    """What `forward` leaves for the backward pass."""
    *_, D, V = WORKLOADS[workload]
    return forward(make_words(workload), common.normal((V, D), dtype))[1]


class WordEmbedding(common.Timed):
    param_names = ("workload", "dtype", "implementation")
    params = (tuple(WORKLOADS), common.DTYPES, (common.ONE_THREAD, common.ALL_THREADS, common.NUMPY))

    def setup(self, workload, dtype, implementation):
        N, T, D, V = WORKLOADS[workload]
        self.x, self.W = make_words(workload), common.normal((V, D), dtype)
        self.dout = common.normal((N, T, D), dtype)
        module = common.implementation(implementation)
        self.forward = common.function(module, "word_embedding_forward")
        self.inference = common.without_cache(self.forward)
        self.backward = common.function(module, "word_embedding_backward")
        self.cache = make_cache(workload, dtype, self.forward)

    def time_inference(self, *_):
        self.inference(self.x, self.W)

    def time_training(self, *_):
        _, cache = self.forward(self.x, self.W)
        self.backward(self.dout, cache)

    def time_backward(self, *_):
        self.backward(self.dout, self.cache)

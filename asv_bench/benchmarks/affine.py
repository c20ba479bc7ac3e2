"""The affine layer over sequences."""

import functools

from . import common

WORKLOADS = common.named(  # N, T, D, M outputs
    char_rnn=(50, 50, 128, 96),
    captioning=(50, 17, 512, 1000),
)


@functools.cache
def make_cache(workload, dtype, forward):
    """What `forward` leaves for the backward pass."""
    N, T, D, M = WORKLOADS[workload]
    return forward(*(common.normal(shape, dtype) for shape in ((N, T, D), (D, M), (M,))))[1]


class TemporalAffine(common.Timed):
    param_names = ("workload", "dtype", "implementation")
    params = (tuple(WORKLOADS), common.DTYPES, (common.ONE_THREAD, common.ALL_THREADS, common.NUMPY))

    def setup(self, workload, dtype, implementation):
        N, T, D, M = WORKLOADS[workload]
        self.x, self.w, self.b = (common.normal(shape, dtype) for shape in ((N, T, D), (D, M), (M,)))
        self.dout = common.normal((N, T, M), dtype)
        module = common.implementation(implementation)
        self.forward = common.function(module, "temporal_affine_forward")
        self.inference = common.without_cache(self.forward)
        self.backward = common.function(module, "temporal_affine_backward")
        self.cache = make_cache(workload, dtype, self.forward)

    def time_inference(self, *_):
        self.inference(self.x, self.w, self.b)

    def time_training(self, *_):
        _, cache = self.forward(self.x, self.w, self.b)
        self.backward(self.dout, cache)

    def time_backward(self, *_):
        self.backward(self.dout, self.cache)

"""The activation functions."""

from . import common

SIZES = {"1e3 elements": 1_000, "1e6 elements": 1_000_000}


class Sigmoid(common.Timed):
    param_names = ("size", "dtype", "implementation")
    params = (tuple(SIZES), common.DTYPES, (common.ONE_THREAD, common.NUMPY))

    def setup(self, size, dtype, implementation):
        self.x = common.normal((SIZES[size],), dtype, 4.0)
        self.sigmoid = common.function(common.implementation(implementation), "sigmoid")
        self.sigmoid(self.x[:1])

    def time_sigmoid(self, *_):
        self.sigmoid(self.x)

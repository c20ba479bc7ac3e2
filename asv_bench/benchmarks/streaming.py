"""Streams: steps on packed weights, each a call from Python, and in blocks."""

import abc
import inspect

import numba
import numpy as np

import rnnkernels

from . import common


class Stream(common.Timed, abc.ABC):
    """Steps of one stream, whose state moves on."""

    param_names = ("workload", "dtype")
    params = (tuple(common.STEPS), common.DTYPES)

    @property
    @abc.abstractmethod
    def cell(self):
        """Prefix of the functions; asv leaves classes alone that do not have it."""

    @property
    @abc.abstractmethod
    def type(self):
        """Name of the class."""

    def setup(self, workload, dtype):
        N, _, D, H = common.STEPS[workload]
        columns = common.GATES[self.cell] * H
        make = common.function(common.implementation(common.ONE_THREAD), self.type)
        _, options = common.VARIANTS.get(self.cell, (self.cell, {}))
        if not options.keys() <= inspect.signature(make).parameters.keys():
            raise NotImplementedError(f"this commit has no {self.cell}")
        weights = ((D, columns), D**-0.5), ((H, columns), H**-0.5), ((columns,), 0.1)
        arrays = [common.normal(shape, dtype, scale) for shape, scale in weights]
        self.stream = make(*arrays, batch_size=N, **options)
        self.block = common.normal((N, common.STEPS_PER_SAMPLE, D), dtype)
        self.x = common.normal((N, D), dtype)
        self.stream.step(self.x)

    def time_100_steps(self, *_):
        for _ in range(common.STEPS_PER_SAMPLE):
            self.stream.step(self.x)

    def time_block_of_100_steps(self, *_):
        self.stream.steps(self.block)


class LSTMStream(Stream):
    cell = "lstm"
    type = "LSTMStream"


class RNNStream(Stream):
    cell = "rnn"
    type = "RNNStream"


class GRUStream(Stream):
    cell = "gru"
    type = "GRUStream"


class GRUStreamResetBefore(GRUStream):
    """With the reset gate before the product."""

    cell = "gru_reset_before"


class CompiledLoop(common.Timed):
    """Steps of a stream in a function that the user has compiled."""

    param_names = ("workload", "dtype")
    params = (tuple(common.STEPS), common.DTYPES)

    def setup(self, workload, dtype):
        try:
            from rnnkernels.nopython import advance
        except ModuleNotFoundError:
            raise NotImplementedError("this commit has no streams in compiled functions") from None

        @numba.njit
        def run(stream, x, h, steps):
            for _ in range(steps):
                advance(stream, x, h)

        N, _, D, H = common.STEPS[workload]
        stream = rnnkernels.LSTM.create(D, H, dtype=dtype, rng=np.random.default_rng(0)).stream(batch_size=N)
        self.run, self.x, self.h = run, common.normal((N, D), dtype), np.zeros((N, H), dtype)
        self.stream = stream.nopython()
        self.run(self.stream, self.x, self.h, 1)

    def time_100_steps(self, *_):
        self.run(self.stream, self.x, self.h, common.STEPS_PER_SAMPLE)

"""Workloads, implementations, and the benchmarks that all cells share.

The files of this folder also measure older commits. What a commit lacks, be it a function, an argument or a setting,
makes `setup` raise NotImplementedError, by which a benchmark is skipped. The names of parameters carry the sizes: a
workload that changes starts a new series.

asv and scripts/check_regressions.py run `setup` before each sample; so it keeps arrays, and returns quickly from the
second time on. It leaves it to them to call once what they time, or calls that alone and what makes its arguments: so
the check sees which kernels a benchmark needs.
"""

import abc
import functools
import inspect
import os
import time
import tracemalloc

import numpy as np

import rnnkernels

ONE_THREAD, ALL_THREADS, NUMPY = "kernels, 1 thread", "kernels, all threads", "plain NumPy, 1 thread"
DTYPES = ("float32", "float64")


def named(**sizes):
    """Workloads by name and sizes, such as ``{"char-rnn 50x50x128x128": (50, 50, 128, 128)}``."""
    return {f"{name.replace('_', '-')} {'x'.join(map(str, size))}": size for name, size in sizes.items()}


SEQUENCES = named(  # N sequences, T steps, D inputs, H hidden units
    single_stream=(1, 1000, 256, 256),
    forecasting=(64, 168, 8, 64),
    char_rnn=(50, 50, 128, 128),
    captioning=(50, 17, 256, 512),
    PTB_medium=(20, 35, 650, 650),
)
STEPS = named(streaming=(1, 1, 64, 64), sampling=(16, 1, 128, 256))
STEPS_PER_SAMPLE = 100
"""A single step is too short for the clock: asv and the check time one call after each setup."""

LONG = {f"T = {T}": (1, T, 16, 64) for T in (1_000, 10_000, 100_000)}

GATES = {"lstm": 4, "lstm_projected": 4, "rnn": 1, "gru": 3, "gru_reset_before": 3}
VARIANTS = {"gru_reset_before": ("gru", {"reset_after": False}), "lstm_projected": ("lstm", {})}
"""What functions begin with and are passed, where that is more than the name of the cell."""

STATE_SCALES = {"lstm": (0.5, 1.0), "rnn": (0.5,), "gru": (0.5,)}
"""A number for each state of a cell: how far it is from zero."""


def selected(*names):
    """Some of the workloads, by what their names begin with."""
    return tuple(workload for workload in SEQUENCES if workload.startswith(names))


class Timed:
    """Settings of asv for everything that is timed within this process."""

    rounds = 1
    warmup_time = 0.1
    repeat = (3, 100, 0.5)


def all_threads():
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def implementation(name):
    """Return the module that computes, after setting its number of threads."""
    if name == NUMPY:
        return function(rnnkernels, "reference")
    if hasattr(rnnkernels, "set_num_threads"):
        rnnkernels.set_num_threads(all_threads() if name == ALL_THREADS else 1)
    elif name == ALL_THREADS:
        raise NotImplementedError("this commit has no threads")
    return rnnkernels


def function(module, name):
    """Return a function of the module, if this commit has it."""
    if not hasattr(module, name):
        raise NotImplementedError(f"this commit has no {name}")
    return getattr(module, name)


def without_cache(forward):
    """Return `forward` in the form for inference."""
    if forward.__module__ == "rnnkernels.reference":
        return forward
    if "keep_cache" not in inspect.signature(forward).parameters:
        raise NotImplementedError("this commit always keeps its cache")
    return functools.partial(forward, keep_cache=False)


@functools.cache
def normal(shape, dtype, scale=1.0):
    """Return the same normally distributed numbers each time."""
    array = np.random.default_rng(0).standard_normal(shape, dtype)
    array *= scale
    return array


class Layer:
    """A cell over sequences, with arguments at which activations are neither linear nor saturated."""

    def __init__(self, cell, sizes, dtype, name):
        N, T, D, H = sizes
        columns, P = GATES[cell] * H, (H + 1) // 2 if cell == "lstm_projected" else H
        self.dh = normal((N, T, P), dtype)
        self.arguments = (
            normal((N, T, D), dtype),
            normal((N, P), dtype, 0.5),
            normal((D, columns), dtype, D**-0.5),
            normal((P, columns), dtype, P**-0.5),
            normal((columns,), dtype, 0.1),
        )
        module = implementation(name)
        prefix, self._options = VARIANTS.get(cell, (cell, {}))
        if P < H:
            self._options = {"projection": normal((H, P), dtype, H**-0.5)}
        self._forward = function(module, f"{prefix}_forward")
        self._backward = function(module, f"{prefix}_backward")
        if not self._options.keys() <= inspect.signature(self._forward).parameters.keys():
            raise NotImplementedError(f"this commit has no {cell}")

    def forward(self):
        return self._forward(*self.arguments, **self._options)

    def inference(self):
        return without_cache(self._forward)(*self.arguments, **self._options)

    def training(self):
        _, cache = self._forward(*self.arguments, **self._options)
        return self._backward(self.dh, cache)


def compiled_layer(cell, sizes, dtype, name):
    """Return a layer whose machine code is in memory."""
    _compile_layer(cell, dtype, name)
    return Layer(cell, sizes, dtype, name)


@functools.cache
def _compile_layer(cell, dtype, name):
    Layer(cell, (2, 3, 4, 5), dtype, name).training()


class Sequence(Timed, abc.ABC):
    """Whole sequences: with a cache, without one, and forward with backward."""

    param_names = ("workload", "dtype", "implementation")
    params = (tuple(SEQUENCES), DTYPES, (ONE_THREAD, ALL_THREADS, NUMPY))

    @property
    @abc.abstractmethod
    def cell(self):
        """Prefix of the functions; asv leaves classes alone that do not have it."""

    def setup(self, workload, dtype, implementation):
        self.layer = Layer(self.cell, SEQUENCES[workload], dtype, implementation)

    def time_forward(self, *_):
        self.layer.forward()

    def time_inference(self, *_):
        self.layer.inference()

    def time_training(self, *_):
        self.layer.training()


class Steps(Timed, abc.ABC):
    """Steps that feed each other, each a call from Python."""

    param_names = ("workload", "dtype", "implementation")
    params = (tuple(STEPS), DTYPES, (ONE_THREAD, NUMPY))

    @property
    @abc.abstractmethod
    def cell(self):
        """Prefix of the functions."""

    def setup(self, workload, dtype, implementation_name):
        N, _, D, H = STEPS[workload]
        columns = GATES[self.cell] * H
        self.x = normal((N, D), dtype)
        self.states = [normal((N, H), dtype, scale) for scale in STATE_SCALES[self.cell]]
        self.weights = (
            normal((D, columns), dtype, D**-0.5),
            normal((H, columns), dtype, H**-0.5),
            normal((columns,), dtype, 0.1),
        )
        module = implementation(implementation_name)
        self.forward = function(module, f"{self.cell}_step_forward")
        self.inference = without_cache(self.forward)
        self.backward = function(module, f"{self.cell}_step_backward")

    def train(self, steps):
        states, caches = self.states, []
        for _ in range(steps):
            *states, cache = self.forward(self.x, *states, *self.weights)
            caches.append(cache)
        gradients = states
        for cache in reversed(caches):
            _, *gradients = self.backward(*gradients, cache)[: 1 + len(states)]

    def time_inference_of_100_steps(self, *_):
        states = self.states
        for _ in range(STEPS_PER_SAMPLE):
            *states, _ = self.inference(self.x, *states, *self.weights)

    def time_training_of_100_steps(self, *_):
        self.train(STEPS_PER_SAMPLE)


class Throughput(abc.ABC):
    """Speed in the units of the field, of which more is better."""

    param_names = ("workload", "dtype", "task", "implementation")
    params = (
        selected("single-stream", "captioning"),
        ("float32",),
        ("inference", "training"),
        (ONE_THREAD, ALL_THREADS, NUMPY),
    )

    @property
    @abc.abstractmethod
    def cell(self):
        """Prefix of the functions."""

    def setup(self, workload, dtype, _, implementation):
        self.layer = compiled_layer(self.cell, SEQUENCES[workload], dtype, implementation)

    def track_throughput_timesteps(self, workload, _dtype, task, _implementation):
        """Time steps per second, those of all sequences together."""
        N, T, _, _ = SEQUENCES[workload]
        return N * T / median_seconds(getattr(self.layer, task))

    track_throughput_timesteps.unit = "timesteps/s"

    def track_throughput_gflops(self, workload, _dtype, task, _implementation):
        """Operations of the matrix products; a backward pass has twice those of a forward pass."""
        N, T, D, H = SEQUENCES[workload]
        flops = 2 * GATES[self.cell] * H * (D + H) * N * T * (3 if task == "training" else 1)
        return flops / median_seconds(getattr(self.layer, task)) / 1e9

    track_throughput_gflops.unit = "GFLOP/s"


def median_seconds(call, seconds=0.2):
    """Median time of a call, once it is warm; asv runs a `track_` benchmark a single time."""
    call()
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


class LongSequence(abc.ABC):
    """Peak memory of a call beyond the arrays that it returns: caches and scratch."""

    param_names = ("length", "dtype", "implementation")
    params = (tuple(LONG), ("float32",), (ONE_THREAD, NUMPY))
    unit = "bytes"

    @property
    @abc.abstractmethod
    def cell(self):
        """Prefix of the functions."""

    def setup(self, length, dtype, implementation):
        if implementation == NUMPY and length == max(LONG, key=LONG.get):
            raise NotImplementedError("takes a minute")
        self.layer = compiled_layer(self.cell, LONG[length], dtype, implementation)

    def track_memory_inference(self, *_):
        return peak_bytes(lambda: self.layer.inference()[:1])

    def track_memory_training(self, *_):
        return peak_bytes(self.layer.training)


def peak_bytes(call):
    """Most memory that the call held at once, less its results; NumPy reports its arrays to tracemalloc."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        results = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before - sum(array.nbytes for array in results)

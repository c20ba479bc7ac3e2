"""How fast this machine can be: the speeds that no kernel exceeds, measured.

The *roofline* of a computation is the larger of two times: its floating-point operations at the peak of fused
multiply-adds, and the bytes that it reads at the bandwidth of the memory that holds them. Where a layer activates its
units, the functions of this package on numbers in the nearest cache set the limit.

References
----------
.. [1] S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model for multicore
   architectures", Communications of the ACM 52(4), 2009.
"""

import threading
import time
from _thread import start_new_thread
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from rnnkernels._checks.settings import check_count, check_float_dtype, check_num_threads
from rnnkernels._memory import aligned_empty, aligned_zeros
from rnnkernels._threads import available_threads
from rnnkernels.kernels import roofline as kernels
from rnnkernels.kernels import simd

__all__ = ["ActivationRates", "activation_rates", "fma_peak", "read_bandwidth"]

ROUNDS = 3
ROUND_SECONDS = 0.003

# Work of one kernel call: so much that threads seldom meet at the GIL, of which each call needs a moment.
CALL_FLOPS = 2e7
CALL_BYTES = 8 << 20
CALL_ACTIVATIONS = 1 << 18
ACTIVATED_BYTES = 8 << 10

PIECE_BYTES = 64 << 20
"""Most that is read or written before Python sees an interrupt."""

Prepared = tuple[Callable[[], Any], float]


def fma_peak(dtype: Any = np.float32, num_threads: int = 1) -> float:
    """Measure the peak of fused multiply-adds on vectors in registers.

    Parameters
    ----------
    dtype : dtype_like, default float32
        float32 or float64.
    num_threads : int, default 1
        Threads that compute at once, at most as many as there are processors for this process.

    Returns
    -------
    float
        Floating-point operations per second of all threads together, two for each multiply-add; the best of
        three rounds of 3 ms.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Examples
    --------
    >>> from rnnkernels import roofline
    >>> roofline.fma_peak() > 1e9
    True
    """
    dtype = check_float_dtype("dtype", dtype)
    width = simd.lanes_of(dtype)
    turns = int(CALL_FLOPS / (2 * width * kernels.CHAINS))

    def prepare() -> Prepared:
        values = aligned_zeros(((kernels.CHAINS + 2) * width,), dtype)
        values[-2 * width :] = 0.5  # a fixed point at 1: neither overflow nor subnormal numbers
        return lambda: kernels.multiply_add(values, turns), float(kernels.multiply_add(values, turns))

    return _best_rate(prepare, check_num_threads(num_threads))


def read_bandwidth(n_bytes: int, num_threads: int = 1) -> float:
    """Measure how fast a buffer is read again and again, from the nearest cache that holds it.

    Parameters
    ----------
    n_bytes : int
        Size of the buffer; each thread has its own. It is rounded up to whole rounds of loads, some 256 bytes.
    num_threads : int, default 1
        Threads that read at once, at most as many as there are processors for this process.

    Returns
    -------
    float
        Bytes per second of all threads together; the best of three rounds of 3 ms.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Examples
    --------
    >>> from rnnkernels import roofline
    >>> roofline.read_bandwidth(16 * 1024) > 1e9
    True
    """
    block = kernels.READERS * simd.VECTOR_BYTES
    n_bytes = -(-check_count("n_bytes", n_bytes) // block) * block
    passes = max(CALL_BYTES // n_bytes, 1)

    def prepare() -> Prepared:
        buffer = aligned_empty((n_bytes // 4,), np.dtype(np.float32))
        pieces = [buffer[begin : begin + PIECE_BYTES // 4] for begin in range(0, buffer.size, PIECE_BYTES // 4)]
        for piece in pieces:
            piece.fill(0)
            kernels.read_again(piece, 1)
        return lambda: [kernels.read_again(piece, passes) for piece in pieces], float(passes * n_bytes)

    return _best_rate(prepare, check_num_threads(num_threads))


class ActivationRates(NamedTuple):
    """Values per second of all threads together."""

    sigmoid: float
    tanh: float


def activation_rates(dtype: Any = np.float32, num_threads: int = 1) -> ActivationRates:
    """Measure how fast the activation functions are on numbers in the first-level cache.

    Parameters
    ----------
    dtype : dtype_like, default float32
        float32 or float64.
    num_threads : int, default 1
        Threads that compute at once, at most as many as there are processors for this process.

    Returns
    -------
    ActivationRates
        Of `sigmoid` and `tanh`; the best of three rounds of 3 ms each.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Examples
    --------
    >>> from rnnkernels import roofline
    >>> rates = roofline.activation_rates()
    >>> rates.sigmoid > 1e6 and rates.tanh > 1e6
    True
    """
    dtype = check_float_dtype("dtype", dtype)

    def prepare(function: Callable[..., None]) -> Prepared:
        x = np.linspace(-2, 2, ACTIVATED_BYTES // dtype.itemsize, dtype=dtype)
        out = np.zeros_like(x)
        passes = CALL_ACTIVATIONS // x.size
        function(x, out, 1)
        return lambda: function(x, out, passes), float(passes * x.size)

    threads = check_num_threads(num_threads)
    functions = kernels.sigmoid_again, kernels.tanh_again
    return ActivationRates(*(_best_rate(partial(prepare, function), threads) for function in functions))


def _best_rate(prepare: Callable[[], Prepared], threads: int) -> float:
    """Work per second of threads that start together; `prepare` gives each a call and the work that it does.

    The thread that measures only waits for them, and for a queue alone: an interrupt inside of a barrier or an event of
    Python can come out as an error about a lock.
    """
    threads = min(threads, available_threads())
    rates = np.zeros((threads, ROUNDS))
    together = threading.Barrier(threads)
    prepared = [prepare() for _ in range(threads)]
    ended: SimpleQueue[Future[None]] = SimpleQueue()

    def run(index: int) -> None:
        call, work = prepared[index]
        for number in range(ROUNDS):
            together.wait()
            calls = 0
            begin = now = time.perf_counter()
            while now < begin + ROUND_SECONDS:
                call()
                calls += 1
                now = time.perf_counter()
            rates[index, number] = calls * work / (now - begin)

    def run_along(index: int) -> None:
        future: Future[None] = Future()
        try:
            run(index)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)
        ended.put(future)
        if future.exception():
            together.abort()

    if threads == 1:
        run(0)
    else:
        try:
            for index in range(threads):
                start_new_thread(run_along, (index,))
            for _ in range(threads):
                ended.get().result()
        finally:
            together.abort()  # an interrupt, or a thread that cannot be started: nobody is to wait for it
    return float(rates.sum(axis=0).max())

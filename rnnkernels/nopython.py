"""Streams inside functions that users compile with Numba themselves: loops that never return to Python.

What such a function takes is what `nopython` of a stream returns: the packed weights and the state of that stream,
which stays the same stream. It advances by the kernels of `step` and `steps`, and so by the same bits. These functions
are the only compiled ones that users call, so they look at their arguments first: dtype, axes and layout when the
caller is compiled, sizes in each call.

Examples
--------
>>> import numba, numpy as np
>>> from rnnkernels import LSTMStream
>>> from rnnkernels.nopython import advance
>>> stream = LSTMStream(np.ones((1, 4)), np.ones((1, 4)), np.zeros(4))
>>> @numba.njit
... def run_closed_loop(stream, y, steps):
...     for _ in range(steps):
...         advance(stream, y, y)  # the output is the next input
...     return y[0]
>>> round(run_closed_loop(stream.nopython(), np.ones(1), 1_000), 4)
0.8439
"""

from rnnkernels.kernels.nopython import advance, reset

__all__ = ["advance", "reset"]

"""Windows of a long series, for truncated back-propagation through time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rnnkernels._checks.sequences import check_series
from rnnkernels._checks.settings import check_count
from rnnkernels._memory import empty


class BPTTWindow(NamedTuple):
    """The next steps of all streams.

    Attributes
    ----------
    x : ndarray of shape (N, L, D)
        Inputs.
    y : ndarray of shape (N, L, D)
        Targets: the series `horizon` steps after each input.
    lengths : ndarray of int64 of shape (N,)
        Valid steps of each stream, for `lengths=` of a forward function; what is beyond is zero in `x` and `y`.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray

    def __repr__(self) -> str:
        return f"BPTTWindow(x={self.x.dtype} {self.x.shape}, lengths={self.lengths})"


class BPTTWindows:
    """A long series as parallel streams, window by window, for truncated back-propagation through time.

    The series is cut into `batch_size` streams of consecutive steps, whose lengths differ by one at most. Each window
    has the next steps of all of them, so that the state after one window is the state before the next. Every step that
    has a target is an input once.

    Parameters
    ----------
    series : array_like of shape (T, D)
        Steps of the series, of float32, float64 or integers; with `dtype` also of other real numbers. A memory map
        (``np.load(path, mmap_mode="r")``), or whatever else has `shape` and a NumPy `dtype` and is sliced by steps, is
        read window by window.
    batch_size : int
        Streams, N.
    steps : int
        Steps of a window, through which gradients flow back.
    horizon : int, default 1
        Steps from an input to its target.
    dtype : dtype_like, optional
        float32 or float64, for the windows; that of the series without it, float64 for integers.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit, a number is no integer or too small, or the series too short.

    See Also
    --------
    clip_gradients : What keeps a step of training small.

    Notes
    -----
    A window is a copy, which may be kept or changed; nothing else is copied. Each iteration begins at the first steps
    of the streams, where the caller begins with fresh states; `len` is the number of windows. The last one has fewer
    steps where `steps` does not divide the streams, and some of them may end one step before the others.

    Examples
    --------
    >>> import numpy as np
    >>> import rnnkernels
    >>> series = np.arange(12.0).reshape(12, 1)
    >>> windows = rnnkernels.BPTTWindows(series, batch_size=2, steps=4)
    >>> layer = rnnkernels.LSTM.create(1, 3, dtype=np.float64)
    >>> state = ()
    >>> for x, y, lengths in windows:
    ...     result = layer.forward(x, *state, lengths=lengths)
    ...     dx, gradients = layer.backward(np.ones_like(result.h), result.cache)
    ...     state = result.state
    ...     print(x[..., 0].tolist(), lengths)
    [[0.0, 1.0, 2.0, 3.0], [6.0, 7.0, 8.0, 9.0]] [4 4]
    [[4.0, 5.0], [10.0, 0.0]] [2 1]
    """

    __slots__ = ("_starts", "batch_size", "dtype", "horizon", "series", "steps")

    def __init__(self, series: Any, batch_size: int, steps: int, *, horizon: int = 1, dtype: Any = None) -> None:
        self.batch_size, self.steps = check_count("batch_size", batch_size), check_count("steps", steps)
        self.horizon = check_count("horizon", horizon)
        self.series, self.dtype = check_series(series, dtype, self.batch_size, self.horizon)
        each, longer = divmod(self.series.shape[0] - self.horizon, self.batch_size)
        n = np.arange(self.batch_size + 1)
        self._starts = each * n + np.minimum(n, longer)

    def __len__(self) -> int:
        return -(-int(self._starts[1]) // self.steps)

    def __iter__(self) -> Iterator[BPTTWindow]:
        longest, D = int(self._starts[1]), self.series.shape[1]
        for begin in range(0, longest, self.steps):
            L = min(self.steps, longest - begin)
            lengths = np.clip(np.diff(self._starts) - begin, 0, L)
            x, y = (empty((self.batch_size, L, D), self.dtype) for _ in range(2))
            for n, (first, length) in enumerate(zip(self._starts + begin, lengths, strict=False)):
                for window, start in ((x, first), (y, first + self.horizon)):
                    window[n, :length] = self.series[start : start + length]
                    window[n, length:] = 0
            yield BPTTWindow(x, y, lengths)

    def __repr__(self) -> str:
        T, D = self.series.shape
        return (
            f"BPTTWindows(T={T}, D={D}, batch_size={self.batch_size}, steps={self.steps}, horizon={self.horizon}, "
            f"dtype={self.dtype})"
        )

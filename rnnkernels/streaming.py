"""Streams: an RNN or LSTM that keeps packed weights and its state from call to call, for steps in real time."""

from typing import Any

import numpy as np

from rnnkernels import _sequence
from rnnkernels._checks import check_for_stream, check_out, check_stream
from rnnkernels._memory import aligned_zeros, empty
from rnnkernels._threads import Team, segments
from rnnkernels.kernels import lstm, micro_kernel, rnn
from rnnkernels.kernels import streaming as kernels


class _Stream:
    """What the streams of all cells share."""

    __slots__ = ("_batch", "_dtype", "_h_shape", "_kernel", "_memory", "_sizes", "_views", "_x_shape")

    _gates: int

    def _open(self, Wx: Any, Wh: Any, b: Any, batch_size: int | None, **states: Any) -> None:
        """Check the arguments and pack them in one array, with room for scratch; `_views` are its parts."""
        Wx, Wh, b, given, self._sizes = check_stream(Wx, Wh, b, states, batch_size, self._gates)
        N, _, D, H = self._sizes
        self._batch, self._dtype = N, Wx.dtype
        self._x_shape, self._h_shape = (N, D), (N, H)
        packed = _sequence.pack_forward(Team(1), Wx, Wh, b, self._gates)
        units = _sequence.unit_columns(H, self._dtype)
        regions = kernels.stream_regions.py_func(N, D, H, packed.b.size, units)
        self._memory = aligned_zeros((1, regions.end), self._dtype)

        self._kernel = kernels.entry_point(self._memory)

        def view(begin: int, rows: int, length: int) -> np.ndarray:
            return self._memory[0, begin : begin + rows * length].reshape(rows, length)

        self._views = {name: view(getattr(regions, name), *panels.shape) for name, panels in packed._asdict().items()}
        self._views |= {name: view(begin, N, units)[:, :H] for name, begin in (("h0", regions.h), ("c0", regions.c))}
        for name, values in (packed._asdict() | given).items():
            self._views[name][...] = values

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments that make the same stream: packed weights differ from host to host."""
        _, _, D, H = self._sizes
        weights = self._unpacked("Wx", D), self._unpacked("Wh", H), self._unpacked("b", 1)[0]
        return type(self), (*weights, *self._states())

    def __repr__(self) -> str:
        N, _, D, H = self._sizes
        return f"{type(self).__name__}(N={N}, D={D}, H={H}, dtype={self._dtype})"

    def _unpacked(self, name: str, depth: int) -> np.ndarray:
        width, columns = micro_kernel.panel_columns(self._dtype), self._views["b"].size
        lines = self._views[name].reshape(columns // width, depth, width).swapaxes(0, 1).reshape(depth, columns)
        units = _sequence.unit_columns(self._sizes.H, self._dtype)
        rows = _sequence.natural(lines[:, : self._gates * units], self._sizes.H, self._gates)
        return rows.reshape(depth, self._gates * self._sizes.H)

    def _states(self) -> tuple[np.ndarray, ...]:
        return (self.h,)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64: what the stream computes in and returns."""
        return self._dtype

    @property
    def h(self) -> np.ndarray:
        """Hidden state of shape (N, H), a copy."""
        return self._views["h0"].copy()

    def step(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Advance by one step.

        Parameters
        ----------
        x : array_like of shape (N, D)
            Input of the step; of another dtype than the stream it is converted.
        out : ndarray of shape (N, H), optional
            Where to write the result: C-contiguous, of the dtype of the stream. It may be `x` itself.

        Returns
        -------
        h : ndarray of shape (N, H)
            Hidden state after the step: `out`, or a new array.

        Raises
        ------
        TypeError
            If `x` is neither of float32 or float64 nor of integers, or `out` is of another dtype than the stream.
        ValueError
            If a shape or the layout of `out` does not fit. The state is what it was.
        """
        # The tests that most calls pass, in their cheapest form: a step takes microseconds.
        if not (type(x) is np.ndarray and x.dtype is self._dtype and x.shape == self._x_shape and x.flags.carray):
            x = check_for_stream("x", x, "(N, D)", self._x_shape, self._dtype)
        if out is None:
            out = empty(self._h_shape, self._dtype)
        elif not (
            type(out) is np.ndarray and out.dtype is self._dtype and out.shape == self._h_shape and out.flags.carray
        ):
            check_out(out, "(N, H)", self._h_shape, self._dtype)
        self._kernel(x, self._memory, out, self._gates, self._batch, 0, 1)
        return out

    def steps(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Advance by a block of steps, which costs less than as many calls of `step`.

        Parameters
        ----------
        x : array_like of shape (N, T, D)
            Inputs; of another dtype than the stream they are converted.
        out : ndarray of shape (N, T, H), optional
            Where to write the result: C-contiguous, of the dtype of the stream. It may be `x` itself.

        Returns
        -------
        h : ndarray of shape (N, T, H)
            Hidden states after each step: `out`, or a new array.

        Raises
        ------
        TypeError
            If `x` is neither of float32 or float64 nor of integers, or `out` is of another dtype than the stream.
        ValueError
            If a shape or the layout of `out` does not fit. The state is what it was.
        """
        N, _, D, H = self._sizes
        x = check_for_stream("x", x, "(N, T, D)", (N, None, D), self._dtype)
        T = x.shape[1]
        if out is None:
            out = empty((N, T, H), self._dtype)
        else:
            check_out(out, "(N, T, H)", (N, T, H), self._dtype)
        rows, h = x.reshape(N * T, D), out.reshape(N * T, H)
        for begin, end in segments(T, _sequence.step_flops(self._sizes, self._gates)):
            self._kernel(rows, self._memory, h, self._gates, N, begin, end)
        return out

    def _reset(self, **states: Any) -> None:
        checked = {
            name: 0 if state is None else check_for_stream(name, state, "(N, H)", self._h_shape, self._dtype)
            for name, state in states.items()
        }
        for name, state in checked.items():
            self._views[name][...] = state


class RNNStream(_Stream):
    """A vanilla RNN that takes steps as they come, with its weights packed once and its state inside.

    Parameters
    ----------
    Wx : array_like of shape (D, H)
        Weights of the input, float32 or float64.
    Wh : array_like of shape (H, H)
        Weights of the hidden state.
    b : array_like of shape (H,)
        Bias.
    h0 : array_like of shape (N, H), optional
        Hidden state before the first step; zero without it.
    batch_size : int, optional
        Sequences N that go side by side; without it as many as `h0` has, or one.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit; the message names the argument.

    See Also
    --------
    rnn_forward : Whole sequences, with the equations.

    Notes
    -----
    As for `LSTMStream`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import RNNStream
    >>> stream = RNNStream(np.ones((1, 2)), np.ones((2, 2)), np.zeros(2))
    >>> stream.step([[0.5]]).round(4)
    array([[0.4621, 0.4621]])
    >>> stream.step([[0.5]]).round(4)
    array([[0.8905, 0.8905]])
    """

    __slots__ = ()

    _gates = rnn.GATES

    def __init__(self, Wx: Any, Wh: Any, b: Any, h0: Any = None, *, batch_size: int | None = None) -> None:
        self._open(Wx, Wh, b, batch_size, h0=h0)

    def reset(self, h0: Any = None) -> None:
        """Begin anew.

        Parameters
        ----------
        h0 : array_like of shape (N, H), optional
            Hidden state before the next step; zero without it.

        Raises
        ------
        TypeError, ValueError
            As for `step`.
        """
        self._reset(h0=h0)


class LSTMStream(_Stream):
    """An LSTM that takes steps as they come, with its weights packed once and its state inside.

    Parameters
    ----------
    Wx : array_like of shape (D, 4H)
        Weights of the input, gate blocks in the order i, f, o, g, float32 or float64.
    Wh : array_like of shape (H, 4H)
        Weights of the hidden state, same order.
    b : array_like of shape (4H,)
        Bias, same order.
    h0, c0 : array_like of shape (N, H), optional
        Hidden state and cell state before the first step; zero without them.
    batch_size : int, optional
        Sequences N that go side by side; without it as many as `h0` or `c0` has, or one.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit; the message names the argument.

    See Also
    --------
    lstm_forward : Whole sequences, with the equations.

    Notes
    -----
    The stream copies the weights: later changes of the arrays do not reach it. What has to be compiled is compiled when
    it is made, so that no step waits for that. Its dtype is `np.result_type` of weights and states, and inputs are
    converted to it, float64 to float32 too. The steps have the same bits as in one call of the function for whole
    sequences, however they are divided among calls.

    All runs on the calling thread, without the GIL. Streams may be used side by side, each by one thread at a time: two
    threads in one stream do no harm but to its state. `copy.deepcopy` and `pickle` give an independent stream in the
    same state. An interrupt (Ctrl-C) in a long block leaves the stream at a step of it.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import LSTMStream
    >>> stream = LSTMStream(np.ones((1, 4)), np.ones((1, 4)), np.zeros(4))
    >>> stream.step([[1.0]]).round(4)
    array([[0.3696]])
    >>> stream.steps([[[1.0], [1.0]]]).round(4)
    array([[[0.6505],
            [0.7888]]])
    >>> stream.reset()
    >>> stream.step([[1.0]]).round(4), stream.c.round(4)
    (array([[0.3696]]), array([[0.5568]]))
    """

    __slots__ = ()

    _gates = lstm.GATES

    def __init__(
        self, Wx: Any, Wh: Any, b: Any, h0: Any = None, c0: Any = None, *, batch_size: int | None = None
    ) -> None:
        self._open(Wx, Wh, b, batch_size, h0=h0, c0=c0)

    def _states(self) -> tuple[np.ndarray, ...]:
        return self.h, self.c

    @property
    def c(self) -> np.ndarray:
        """Cell state of shape (N, H), a copy."""
        return self._views["c0"].copy()

    def reset(self, h0: Any = None, c0: Any = None) -> None:
        """Begin anew.

        Parameters
        ----------
        h0, c0 : array_like of shape (N, H), optional
            Hidden state and cell state before the next step; zero without them.

        Raises
        ------
        TypeError, ValueError
            As for `step`.
        """
        self._reset(h0=h0, c0=c0)

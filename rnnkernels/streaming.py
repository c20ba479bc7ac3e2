"""Streams: cells that keep packed weights and their state from call to call, for steps in real time."""

import math
import time
from typing import Any

import numpy as np

from rnnkernels import _recorder as recorder
from rnnkernels import _sequence, gru, lstm, rnn
from rnnkernels._checks.streams import check_for_stream, check_out, check_rows, check_states
from rnnkernels._memory import aligned_empty, aligned_zeros, empty
from rnnkernels._packed import PackedWeights
from rnnkernels._packing import unit_columns
from rnnkernels._threads import segments, start, wait_for
from rnnkernels._tuning import UNSEEN_FLOPS
from rnnkernels.kernels import nopython, passes, simd
from rnnkernels.kernels.cell import cells


class Stream:
    """What the streams of all cells share."""

    __slots__ = ("_counts", "_dtype", "_h_shape", "_kernel", "_memory", "_states", "_weights", "_x_shape", "packed")

    def _open(self, packed: PackedWeights, states: dict[str, Any], batch_size: int | None) -> None:
        """Take a state beside packed weights, with room for scratch in one array; `_states` are views of it."""
        cell, self._dtype, D, H, P = packed.cell, packed.dtype, packed.D, packed.H, packed.P
        checked, N = check_states(tuple(states), tuple(states.values()), batch_size, packed.sizes(0, 0), self._dtype)
        self.packed, self._weights, self._counts = packed, packed.flat, passes.stream_counts(N, H)
        self._x_shape, self._h_shape = (N, D), (N, P)
        lanes, units, projected = simd.lanes_of(self._dtype), unit_columns(H, self._dtype), P * cell.projected
        shape = N, D, H, projected, len(cell.gates), cell.late, cell.bias_count, cell.own, len(cell.tape), lanes
        _, _, base, at, end = passes.stream_regions(*shape)
        self._memory = aligned_zeros((end,), self._dtype)
        self._kernel = cell.machine_code("stream", self._dtype) if N * H * P > 0 else _do_nothing
        if _sequence.step_flops(packed.sizes(N, 1), cell) >= UNSEEN_FLOPS:
            self._kernel = _interruptible(self._kernel)
        h = self._memory[base + at.h :][: N * at.h_stride].reshape(N, at.h_stride)
        track = self._memory[: N * units].reshape(N, units)
        parts = h[:, :P], track[:, :H]
        self._states = dict(zip(cell.states, parts, strict=False))
        for state, values in zip(self._states.values(), checked, strict=True):
            if values is not None:
                state[...] = values

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments that make the same stream: packed weights differ from host to host."""
        states = {name: state.copy() for name, state in self._states.items()}
        packed = self.packed
        return _reopened, (type(self), packed.cell.key, packed.parameters, states, packed.cell_clip, packed.cell.clip)

    def __repr__(self) -> str:
        N, D = self._x_shape
        projected = f"P={self._h_shape[1]}, " if self.packed.cell.projected else ""
        return f"{type(self).__name__}(N={N}, D={D}, H={self.packed.H}, {projected}dtype={self._dtype})"

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64: what the stream computes in and returns."""
        return self._dtype

    def nopython(self) -> Any:
        """Weights and state of this stream for functions that Numba compiles, see `rnnkernels.nopython`.

        Returns
        -------
        stream : tuple
            For `advance` and `reset` of that module. What these do to the state is done to that of this stream.
        """
        (N, D), packed = self._x_shape, self.packed
        projected = packed.P * packed.cell.projected
        return nopython.stream_class(packed.cell.key)(self._weights, self._memory, N, D, packed.H, projected)

    @property
    def h(self) -> np.ndarray:
        """Hidden state of shape (N, H), a copy."""
        return self._states["h"].copy()

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
        begin_ns = time.perf_counter_ns() if recorder.listeners else 0
        # The tests that most calls pass, in their cheapest form: a step takes microseconds.
        if not (type(x) is np.ndarray and x.dtype is self._dtype and x.shape == self._x_shape and x.flags.carray):
            x = check_for_stream("x", x, "(N, D)", self._x_shape, self._dtype)
        if out is None:
            out = empty(self._h_shape, self._dtype)
        elif not (
            type(out) is np.ndarray and out.dtype is self._dtype and out.shape == self._h_shape and out.flags.carray
        ):
            check_out(out, f"(N, {self.packed.cell.h_symbol})", self._h_shape, self._dtype)
        self._kernel(x, self._weights, self._memory, out, self._counts, 0, 1)
        if begin_ns:
            self._record("step", begin_ns, 1, x, out)
        return out

    def steps(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Advance by a block of steps, which costs less than as many calls of `step`.

        Parameters
        ----------
        x : array_like of shape (N, T, D)
            Inputs; of another dtype than the stream they are converted.
        out : ndarray of shape (N, T, H), optional
            Where to write the result: C-contiguous, of the dtype of the stream. It may be `x` itself, or
            overlap it.

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
        begin_ns = time.perf_counter_ns() if recorder.listeners else 0
        (N, D), P = self._x_shape, self._h_shape[1]
        x = check_for_stream("x", x, "(N, T, D)", (N, None, D), self._dtype)
        T = x.shape[1]
        if out is None:
            out = empty((N, T, P), self._dtype)
        else:
            check_out(out, f"(N, T, {self.packed.cell.h_symbol})", (N, T, P), self._dtype)
            if np.may_share_memory(x, out) and not (D == P and x.ctypes.data == out.ctypes.data):
                x = x.copy()  # steps would overwrite inputs that are still to come
        rows, h = x.reshape(N * T, D), out.reshape(N * T, P)
        flops = _sequence.step_flops(self.packed.sizes(N, 1), self.packed.cell)
        for begin, end in segments(T if h.size > 0 else 0, flops):
            self._kernel(rows, self._weights, self._memory, h, self._counts, begin, end)
        if begin_ns:
            self._record("steps", begin_ns, T, x, out)
        return out

    def _record(self, name: str, begin_ns: int, steps: int, x: np.ndarray, out: np.ndarray) -> None:
        """Tell who profiles of a call that began at a time."""
        end_ns, packed, rows = time.perf_counter_ns(), self.packed, len(x) * steps
        work = recorder.Work(packed.cell.key, packed.sizes(len(x), steps), rows, rows)
        given = {"x": x, **packed.arguments}
        recorder.add_record(f"{type(self).__name__}.{name}", begin_ns, end_ns, work, given, out)

    def _reset(self, rows: Any, **states: Any) -> None:
        mask = check_rows(rows, self._x_shape[0])
        names = tuple(states)
        checked, _ = check_states(names, tuple(states.values()), self._x_shape[0], self.packed.sizes(0, 0), self._dtype)
        for name, values in zip(self._states, checked, strict=True):
            whole = np.broadcast_to(0 if values is None else values, self._states[name].shape)
            self._states[name][mask] = whole[mask]


def _do_nothing(*_: Any) -> None:
    """Kernel of a stream that has no element."""


def _interruptible(kernel: Any) -> Any:
    """A kernel whose single step takes so long that it runs on a thread of its own, and on a state of its own."""

    def run(x: np.ndarray, weights: np.ndarray, memory: np.ndarray, *rest: Any) -> None:
        own = aligned_empty(memory.shape, memory.dtype)
        own[...] = memory
        wait_for(start(lambda: kernel(x, weights, own, *rest), "rnnkernels-stream"))
        memory[...] = own

    return run


def _reopened(
    kind: type[Stream],
    key: str,
    parameters: dict[str, np.ndarray],
    states: dict[str, np.ndarray],
    cell_clip: float | None = None,
    clip: float = math.inf,
) -> Stream:
    biases = dict(parameters)
    Wx, Wh = biases.pop("Wx"), biases.pop("Wh")
    cell = cells[key]._replace(clip=clip)
    return open_stream(kind, PackedWeights(cell, Wx, Wh, biases, cell_clip), states, None)


def open_stream(kind: type[Stream], packed: PackedWeights, states: dict[str, Any], batch_size: int | None) -> Any:
    """Make a stream on weights that are packed; `states` by name, h and c."""
    stream = kind.__new__(kind)
    stream._open(packed, {f"{name}0": state for name, state in states.items()}, batch_size)
    return stream


class RNNStream(Stream):
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
    activation : {"tanh", "relu"}, default "tanh"
        What makes the hidden state.
    clip : float, optional
        As for `rnn_forward`.
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

    def __init__(
        self,
        Wx: Any,
        Wh: Any,
        b: Any,
        h0: Any = None,
        *,
        activation: str = "tanh",
        clip: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        cell = rnn.family(activation, clip).cell
        self._open(PackedWeights(cell, Wx, Wh, {"b": b}), {"h0": h0}, batch_size)

    def reset(self, h0: Any = None, *, rows: Any = None) -> None:
        """Begin anew.

        Parameters
        ----------
        h0 : array_like of shape (N, H), optional
            Hidden state before the next step; zero without it.
        rows : array_like of booleans of shape (N,), optional
            Which sequences begin anew; all without it.

        Raises
        ------
        TypeError, ValueError
            As for `step`.
        """
        self._reset(rows, h0=h0)


class LSTMStream(Stream):
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
    projection, peepholes, coupled, cell_clip, clip : optional
        As for `lstm_forward`. With a projection (H, P) hidden states have P columns, those of `step` and `steps`, too.
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
    it is made, so that no step waits for that. Its dtype is that of the weights, and states and inputs are
    converted to it, float64 to float32 too. The steps have the same bits as in one call of the function for whole
    sequences, however they are divided among calls.

    All runs on one thread, without the GIL. Streams may be used side by side, each by one thread at a time: two
    threads in one stream do no harm but to its state. `copy.deepcopy` and `pickle` give an independent stream in the
    same state. An interrupt (Ctrl-C) in a long block leaves the stream at a step of it; where a step takes more than a
    tenth of a second, the one that was interrupted may still write to `out`.

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

    def __init__(
        self,
        Wx: Any,
        Wh: Any,
        b: Any,
        h0: Any = None,
        c0: Any = None,
        *,
        projection: Any = None,
        peepholes: Any = None,
        coupled: bool = False,
        cell_clip: float | None = None,
        clip: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        cell = lstm.family(projection, peepholes, coupled, cell_clip, clip).cell
        biases = {"b": b, "peepholes": peepholes, "projection": projection}
        self._open(PackedWeights(cell, Wx, Wh, biases, cell_clip), {"h0": h0, "c0": c0}, batch_size)

    @property
    def c(self) -> np.ndarray:
        """Cell state of shape (N, H), a copy."""
        return self._states["c"].copy()

    def reset(self, h0: Any = None, c0: Any = None, *, rows: Any = None) -> None:
        """Begin anew.

        Parameters
        ----------
        h0, c0 : array_like of shape (N, H), optional
            Hidden state and cell state before the next step; zero without them.
        rows : array_like of booleans of shape (N,), optional
            Which sequences begin anew; all without it.

        Raises
        ------
        TypeError, ValueError
            As for `step`.
        """
        self._reset(rows, h0=h0, c0=c0)


class GRUStream(Stream):
    """A GRU that takes steps as they come, with its weights packed once and its state inside.

    Parameters
    ----------
    Wx : array_like of shape (D, 3H)
        Weights of the input, gate blocks in the order r, z, n, float32 or float64.
    Wh : array_like of shape (H, 3H)
        Weights of the hidden state, same order.
    b : array_like of shape (3H,)
        Bias of the input, same order.
    h0 : array_like of shape (N, H), optional
        Hidden state before the first step; zero without it.
    bh : array_like of shape (3H,), optional
        Bias of the hidden state, same order; zero without it.
    reset_after : bool, default True
        Whether the reset gate acts after the product with Wh, see `gru_forward`.
    clip : float, optional
        As for `gru_forward`.
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
    gru_forward : Whole sequences, with the equations.

    Notes
    -----
    As for `LSTMStream`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import GRUStream
    >>> stream = GRUStream(np.ones((1, 3)), np.ones((1, 3)), np.zeros(3))
    >>> stream.step([[1.0]]).round(4)
    array([[0.2048]])
    """

    __slots__ = ()

    def __init__(
        self,
        Wx: Any,
        Wh: Any,
        b: Any,
        h0: Any = None,
        *,
        bh: Any = None,
        reset_after: bool = True,
        clip: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        cell = gru.family(reset_after, clip).cell
        self._open(PackedWeights(cell, Wx, Wh, {"b": b, "bh": bh}), {"h0": h0}, batch_size)

    def reset(self, h0: Any = None, *, rows: Any = None) -> None:
        """Begin anew.

        Parameters
        ----------
        h0 : array_like of shape (N, H), optional
            Hidden state before the next step; zero without it.
        rows : array_like of booleans of shape (N,), optional
            Which sequences begin anew; all without it.

        Raises
        ------
        TypeError, ValueError
            As for `step`.
        """
        self._reset(rows, h0=h0)

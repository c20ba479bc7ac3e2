"""Layers: weights that are packed once and stay, for passes over sequences, steps and streams."""

from typing import Any, ClassVar

import numpy as np

from rnnkernels import _recurrent, gru, lstm, rnn
from rnnkernels._checks import check_given_float, check_layer_sizes, check_replacements
from rnnkernels._packed import PackedWeights
from rnnkernels._results import ForwardResult, LayerGradients
from rnnkernels.streaming import GRUStream, LSTMStream, RNNStream, Stream, open_stream


class Layer:
    """What the layers of all cells share."""

    _family: _recurrent.Family
    _stream: ClassVar[type[Stream]]

    def __init__(self, Wx: Any, Wh: Any, b: Any) -> None:
        self._take(Wx, Wh, {"b": b})

    def _take(self, Wx: Any, Wh: Any, biases: dict[str, Any]) -> None:
        self._packed = PackedWeights(self._family.cell, Wx, Wh, biases)

    @classmethod
    def create(
        cls, D: int, H: int, *, dtype: Any = np.float32, rng: np.random.Generator | None = None, **options: Any
    ) -> Any:
        """Make a layer with random weights, uniform in -1 / sqrt(H) .. 1 / sqrt(H), as PyTorch does.

        Parameters
        ----------
        D, H : int
            Inputs and hidden units.
        dtype : dtype_like, default float32
            float32 or float64.
        rng : numpy.random.Generator, optional
            Where the numbers come from; a new one without it.
        **options
            Other arguments of the class that are no weights.

        Returns
        -------
        layer
            Of this class.

        Raises
        ------
        TypeError, ValueError
            If a size is no integer or too small, or the dtype is another one.
        """
        D, H, dtype = check_layer_sizes(D, H, dtype)
        rng = np.random.default_rng() if rng is None else rng
        cell, bound = cls._family.cell, 1 / np.sqrt(H)
        columns = len(cell.gates) * H
        shapes = (D, columns), (H, columns), *[(columns,) for _ in cell.biases]
        weights = [rng.uniform(-bound, bound, shape).astype(dtype) for shape in shapes]
        others: dict[str, Any] = {**dict(zip(cell.biases[1:], weights[3:], strict=True)), **options}
        return cls(weights[0], weights[1], weights[2], **others)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Weights and biases by name, read-only; `replace` takes others."""
        return dict(self._packed.parameters)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64: what the layer computes in."""
        return self._packed.dtype

    def replace(self, **parameters: Any) -> None:
        """Take other weights; what is not named stays. Streams keep the ones that they began with.

        Parameters
        ----------
        **parameters : array_like
            As for the layer itself: `Wx`, `Wh`, `b`.

        Raises
        ------
        TypeError, ValueError
            If a name is unknown, or a dtype or shape does not fit.
        """
        Wx, Wh, *biases = check_replacements(self._packed.parameters, parameters).values()
        self._take(Wx, Wh, dict(zip(self._family.cell.biases, biases, strict=True)))

    def _forward(self, x: Any, states: tuple[Any, ...], keep_cache: bool, num_threads: int | None) -> Any:
        own = self._packed
        Wx, Wh, *biases = own.parameters.values()
        return _recurrent.forward(
            self._family, _as_dtype(x, own.dtype), states, Wx, Wh, tuple(biases), keep_cache, num_threads, own.forward
        )

    def forward(
        self, x: Any, h0: Any = None, *, keep_cache: bool = True, num_threads: int | None = None
    ) -> ForwardResult[Any, Any]:
        """Run over whole sequences; as the function for sequences does, with the weights of the layer.

        Parameters
        ----------
        x : array_like of shape (N, T, D)
            Input sequences; of another dtype than the layer they are converted.
        h0 : array_like that broadcasts to (N, H), optional
            Hidden state before the first step; zero without it.
        keep_cache : bool, default True
            Whether to keep what `backward` needs.
        num_threads : int, optional
            Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

        Returns
        -------
        h : ndarray of shape (N, T, H)
            The same bits as those of the function.
        cache : object or None
            For `backward`, or for the function's.

        The result has `state`, the state after the last step, too.

        Raises
        ------
        TypeError, ValueError
            If a dtype or a shape does not fit.
        """
        return self._forward(x, (h0,), keep_cache, num_threads)

    def backward(self, dh: Any, cache: Any, *, dstate: Any = None, num_threads: int | None = None) -> LayerGradients:
        """Propagate gradients back through whole sequences.

        Parameters
        ----------
        dh : array_like of shape (N, T, H), or None
            Gradient of the loss with respect to the hidden states; None is zero.
        cache : object
            From `forward`; also from before the weights were replaced, which then are those of the cache.
        dstate : state or array_like, optional
            Gradient of the loss with respect to the state after the last step, other than through `dh`.
        num_threads : int, optional
            Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

        Returns
        -------
        dx : ndarray of shape (N, T, D)
        gradients : dict of ndarray
            With the keys of `parameters`.

        The result has the gradients of the first states, `dh0` and where there is one `dc0`, too.

        Raises
        ------
        TypeError, ValueError
            If a dtype or a shape does not fit, or `cache` is not a cache of this kind of layer.
        """
        own, packed = self._packed, None
        if isinstance(cache, self._family.cache) and cache.Wx is own.parameters["Wx"]:
            dh = dh if dh is None else _as_dtype(dh, own.dtype, "dh")
            packed = own.backward
        result = _recurrent.backward(self._family, dh, cache, dstate, num_threads, packed)
        _, dh0, dWx, dWh, db = result
        others = vars(result)
        names = ("Wx", "Wh", *self._family.cell.biases)
        gradients = LayerGradients(
            (result.dx, dict(zip(names, (dWx, dWh, db, *(others[f"d{name}"] for name in names[3:])), strict=True)))
        )
        gradients.dh0 = dh0
        if "dc0" in others:
            gradients.dc0 = others["dc0"]
        return gradients

    def step(self, x: Any, state: Any = None) -> Any:
        """Advance a state by one step; `stream` is faster, and keeps the state.

        Parameters
        ----------
        x : array_like of shape (N, D)
            Input of the step.
        state : state of the cell, optional
            State before the step, as from `forward` or `step`; zero without it.

        Returns
        -------
        state
            After the step; its `h` is the output.

        Raises
        ------
        TypeError, ValueError
            If a dtype or a shape does not fit.
        """
        own, family = self._packed, self._family
        Wx, Wh, *biases = own.parameters.values()
        states = [None] * len(family.cell.states) if state is None else state
        x = _as_dtype(x, own.dtype)
        *following, _ = _recurrent.step_forward(family, x, tuple(states), Wx, Wh, tuple(biases), False, 1, own.forward)
        return family.state(*following)

    def stream(self, h0: Any = None, *, batch_size: int | None = None) -> Any:
        """Open a stream: steps in real time, with a state of its own, on the packed weights of this layer.

        Parameters
        ----------
        h0 : array_like of shape (N, H), optional
            Hidden state before the first step; zero without it.
        batch_size : int, optional
            Sequences N that go side by side; without it as many as `h0` has, or one.

        Returns
        -------
        stream
            As of the class of streams of this cell.

        Raises
        ------
        TypeError, ValueError
            If a dtype or a shape does not fit.
        """
        return open_stream(self._stream, self._packed, {"h": h0}, batch_size)

    def __repr__(self) -> str:
        own = self._packed
        return f"{type(self).__name__}(D={own.D}, H={own.H}, dtype={own.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the weights: packed ones differ from host to host."""
        Wx, Wh, b, *others = self._packed.parameters.values()
        cell = self._family.cell
        return _made, (type(self), Wx, Wh, b, {**dict(zip(cell.biases[1:], others, strict=True)), **dict(cell.options)})


def _made(kind: type[Layer], Wx: Any, Wh: Any, b: Any, others: dict[str, Any]) -> Layer:
    return kind(Wx, Wh, b, **others)


def _as_dtype(x: Any, dtype: np.dtype, name: str = "x") -> Any:
    if type(x) is np.ndarray and x.dtype is dtype:
        return x
    return check_given_float(name, x).astype(dtype, copy=False)


class RNN(Layer):
    """A vanilla RNN with tanh whose weights are packed once.

    Parameters
    ----------
    Wx : array_like of shape (D, H)
        Weights of the input, float32 or float64.
    Wh : array_like of shape (H, H)
        Weights of the hidden state.
    b : array_like of shape (H,)
        Bias.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; the message names the argument.

    See Also
    --------
    rnn_forward : The equations.

    Notes
    -----
    As for `LSTM`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import RNN
    >>> layer = RNN([[0.5]], [[1.0]], [0.0])
    >>> h, cache = layer.forward(np.ones((1, 2, 1)))
    >>> h.round(4)
    array([[[0.4621],
            [0.7452]]])
    >>> dx, gradients = layer.backward(np.ones_like(h), cache)
    >>> gradients["Wx"].round(4)
    array([[1.5808]])
    """

    _family = rnn.FAMILY
    _stream = RNNStream


class GRU(Layer):
    """A GRU whose weights are packed once.

    Parameters
    ----------
    Wx : array_like of shape (D, 3H)
        Weights of the input, gate blocks in the order r, z, n, float32 or float64.
    Wh : array_like of shape (H, 3H)
        Weights of the hidden state, same order.
    b : array_like of shape (3H,)
        Bias of the input, same order.
    bh : array_like of shape (3H,), optional
        Bias of the hidden state, same order; zero without it.
    reset_after : bool, default True
        Whether the reset gate acts after the product with Wh, see `gru_forward`.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; the message names the argument.

    See Also
    --------
    gru_forward : The equations.

    Notes
    -----
    As for `LSTM`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import GRU
    >>> layer = GRU(np.ones((1, 3)), np.ones((1, 3)), np.zeros(3))
    >>> layer.forward(np.ones((1, 2, 1))).state
    GRUState(h=float64 (1, 1))
    """

    _family = gru.FAMILY
    _stream = GRUStream

    def __init__(self, Wx: Any, Wh: Any, b: Any, *, bh: Any = None, reset_after: bool = True) -> None:
        self._family = gru.family(reset_after)
        self._take(Wx, Wh, {"b": b, "bh": bh})


class LSTM(Layer):
    """An LSTM whose weights are packed once.

    Parameters
    ----------
    Wx : array_like of shape (D, 4H)
        Weights of the input, gate blocks in the order i, f, o, g, float32 or float64.
    Wh : array_like of shape (H, 4H)
        Weights of the hidden state, same order.
    b : array_like of shape (4H,)
        Bias, same order.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; the message names the argument.

    See Also
    --------
    lstm_forward : The equations, and the same bits from weights that are read anew at each call.

    Notes
    -----
    The layer copies its weights, in the order of the kernels: later changes of the arrays do not reach it, `replace`
    does. What the functions pack at each call is packed here once, for all passes, steps and streams.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import LSTM
    >>> layer = LSTM(np.ones((1, 4)), np.ones((1, 4)), np.zeros(4))
    >>> result = layer.forward(np.ones((1, 2, 1)), keep_cache=False)
    >>> result.h.round(4)
    array([[[0.3696],
            [0.6505]]])
    >>> stream = layer.stream(*result.state)
    >>> stream.step([[1.0]]).round(4)
    array([[0.7888]])
    """

    _family = lstm.FAMILY
    _stream = LSTMStream

    def forward(
        self, x: Any, h0: Any = None, c0: Any = None, *, keep_cache: bool = True, num_threads: int | None = None
    ) -> ForwardResult[Any, Any]:
        """Run over whole sequences; as `Layer.forward`, with `c0`, the cell state before the first step."""
        return self._forward(x, (h0, c0), keep_cache, num_threads)

    def stream(self, h0: Any = None, c0: Any = None, *, batch_size: int | None = None) -> LSTMStream:
        """Open a stream; as `Layer.stream`, with `c0`, the cell state before the first step."""
        return open_stream(LSTMStream, self._packed, {"h": h0, "c": c0}, batch_size)

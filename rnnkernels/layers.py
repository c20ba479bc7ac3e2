"""Layers: weights that are packed once and stay, for passes over sequences, steps and streams."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np

from rnnkernels import _direction, _layer_files, gru, lstm, rnn
from rnnkernels import _recorder as recorder
from rnnkernels._checks.cells import check_bound
from rnnkernels._checks.layers import (
    check_dropout,
    check_layer_sizes,
    check_one_direction,
    check_parameters,
    check_replacements,
    check_rng,
    suffixes,
)
from rnnkernels._checks.settings import check_absent, check_count
from rnnkernels._checks.stacks import check_state_tuple
from rnnkernels._packed import PackedWeights
from rnnkernels._recurrent import Family
from rnnkernels._results import ForwardResult, LayerGradients
from rnnkernels._stack import Stack
from rnnkernels.stacks import StackStream
from rnnkernels.streaming import GRUStream, LSTMStream, RNNStream, Stream, open_stream


class Layer:
    """What the layers of all cells share."""

    _family: Family
    _stream: ClassVar[type[Stream]]
    _stack: Stack
    _single: PackedWeights | None
    """The only part, where there is only one: it needs nothing of a stack."""
    _cell_clip: float | None = None

    def __init__(self, Wx: Any, Wh: Any, b: Any) -> None:
        self._hold([{"Wx": Wx, "Wh": Wh, "b": b}])

    def _hold(
        self, parts: list[dict[str, Any]], directions: int = 1, dropout: Any = 0.0, variational: bool = False
    ) -> None:
        """Pack the weights of each part."""
        dropout = check_dropout(dropout, len(parts) // directions)
        cell = self._family.cell
        clip = self._cell_clip
        packed = tuple([PackedWeights(cell, part.pop("Wx"), part.pop("Wh"), part, clip) for part in parts])
        self._stack = Stack(self._family, packed, directions, dropout, bool(variational))
        self._single = packed[0] if len(packed) == 1 else None

    def _choose(self, parameters: Mapping[str, Any]) -> None:
        """Choose the cell by the options of the class, if it has any, and by the parameters."""

    @classmethod
    def create(
        cls,
        D: int,
        H: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        variational: bool = False,
        projection: int | None = None,
        dtype: Any = np.float32,
        rng: np.random.Generator | None = None,
        **options: Any,
    ) -> Self:
        """Make a layer, or a stack of layers, with random weights.

        They are uniform in -1 / sqrt(H) .. 1 / sqrt(H), as those of PyTorch.

        Parameters
        ----------
        D, H : int
            Inputs and hidden units.
        num_layers : int, default 1
            Layers, each of which takes the outputs of the one before.
        bidirectional : bool, default False
            Whether each layer runs from the last step to the first, too, with weights of its own.
        dropout : float, default 0
            Probability of dropping an output of any layer but the last, in `forward` with `rng`.
        variational : bool, default False
            Whether the same outputs are dropped at all steps.
        projection : int, optional
            Columns P of the hidden states, which a projection makes; of an LSTM.
        dtype : dtype_like, default float32
            float32 or float64.
        rng : numpy.random.Generator, optional
            Where the weights come from; a new one without it.
        **options
            Other arguments of the class that are no weights.

        Returns
        -------
        layer
            Of this class.

        Raises
        ------
        TypeError, ValueError
            If a size is no integer or too small, the dtype is another one, or `dropout` is no probability; or if there
            is a projection, and the class is none of an LSTM.
        """
        D, H, dtype = check_layer_sizes(D, H, dtype)
        num_layers, directions = check_count("num_layers", num_layers), 2 if bidirectional else 1
        check_rng(rng)
        rng = np.random.default_rng() if rng is None else rng
        example = cls.__new__(cls)
        example._choose({} if projection is None else {"projection": None}, **options)
        cell, bound = example._family.cell, 1 / np.sqrt(H)
        columns, P = len(cell.gates) * H, H
        if projection is not None:
            if not cell.projected:
                check_absent("projection", projection, f"a {cls.__name__} has none, only an LSTM has")
            P = check_count("projection", projection)
        parameters = {}
        for k, suffix in enumerate(suffixes(num_layers, directions)):
            depth = D if k < directions else directions * P
            biases = dict.fromkeys(cell.biases[: cell.bias_count - cell.own], (columns,))
            shapes = {"Wx": (depth, columns), "Wh": (P, columns), **biases}
            if cell.projected:
                shapes["projection"] = (H, P)
            for name, shape in shapes.items():
                parameters[name + suffix] = rng.uniform(-bound, bound, shape).astype(dtype)
        return cls.from_parameters(parameters, dropout=dropout, variational=variational, **options)

    @classmethod
    def from_parameters(
        cls, parameters: Mapping[str, Any], *, dropout: float = 0.0, variational: bool = False, **options: Any
    ) -> Self:
        """Make a layer, or a stack of layers, from named arrays: sizes, layers and directions follow from these.

        Parameters
        ----------
        parameters : dict of array_like
            `Wx`, `Wh` and the biases, as the arguments of the class. Where there are several layers each name ends
            with the number of its layer: `Wx_l0`, `Wx_l1`. The weights of the second direction end with `_reverse`:
            `Wx_reverse`, or `Wx_l1_reverse`. With two directions, layers after the first have Wx of shape (2H, ...).
        dropout : float, default 0
            Probability of dropping an output of any layer but the last, in `forward` with `rng`.
        variational : bool, default False
            Whether the same outputs are dropped at all steps.
        **options
            Other arguments of the class that are no weights.

        Returns
        -------
        layer
            Of this class.

        Raises
        ------
        TypeError, ValueError
            If a name is unknown or missing, a dtype or a shape does not fit, or `dropout` is no probability.

        Examples
        --------
        >>> import numpy as np
        >>> from rnnkernels import RNN
        >>> one, zero = np.ones((1, 1)), np.zeros(1)
        >>> forth, back = {"Wx": one, "Wh": one, "b": zero}, {"Wx_reverse": one, "Wh_reverse": one, "b_reverse": zero}
        >>> RNN.from_parameters(forth | back)
        RNN(D=1, H=1, bidirectional=True, dtype=float64)
        """
        layer = cls.__new__(cls)
        layer._choose(parameters if isinstance(parameters, Mapping) else {}, **options)
        parts, directions = check_parameters(layer._family.cell, parameters)
        layer._hold(parts, directions, dropout, variational)
        return layer

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Make the layer that `save` wrote to a file.

        Parameters
        ----------
        path : path_like
            A safetensors file. One from elsewhere fits too, if its arrays are named as in `from_parameters`.

        Returns
        -------
        layer
            Of this class.

        Raises
        ------
        ModuleNotFoundError
            Without the extra: ``pip install "rnnkernels[safetensors]"``.
        ValueError
            If it is no such file, or of another class.
        """
        parameters, facts = _layer_files.read(path, cls._family.cell.name)
        return cls.from_parameters(parameters, **facts)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the layer to a safetensors file: parameters by name, and in the metadata what else makes it.

        Parameters
        ----------
        path : path_like
            Where to; a file that is there is replaced once the new one is complete.

        Raises
        ------
        ModuleNotFoundError
            Without the extra: ``pip install "rnnkernels[safetensors]"``.
        """
        _layer_files.write(path, self.parameters, {"cell": self._family.cell.name, **self._facts()})

    def _facts(self) -> dict[str, Any]:
        """What makes the layer besides its parameters."""
        stack = self._stack
        return {"dropout": stack.dropout, "variational": stack.variational, **dict(self._family.cell.options)}

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Weights and biases by name, read-only; `replace` takes others."""
        return dict(self._stack.parameters)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64: what the layer computes in."""
        return self._stack.dtype

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        return self._stack.layers

    @property
    def bidirectional(self) -> bool:
        """Whether there is a second direction."""
        return self._stack.directions == 2

    @property
    def dropout(self) -> float:
        """Probability of dropping an output between layers."""
        return self._stack.dropout

    @property
    def variational(self) -> bool:
        """Whether the same outputs are dropped at all steps."""
        return self._stack.variational

    def replace(self, **parameters: Any) -> None:
        """Take other weights, in the dtype of the layer; what is not named stays. Streams keep those they began with.

        Parameters
        ----------
        **parameters : array_like
            As for the layer itself: `Wx`, `Wh`, `b`, with the endings of a stack.

        Raises
        ------
        TypeError, ValueError
            If a name is unknown, or a dtype or shape does not fit.
        """
        if recorder.listeners:
            name = f"{self._family.cell.name.upper()}.replace"
            recorder.recorded(name, lambda: self._replace(parameters), lambda: parameters)
        else:
            self._replace(parameters)

    def _replace(self, parameters: dict[str, Any]) -> None:
        stack = self._stack
        whole = check_replacements(stack.parameters, parameters, stack.dtype)
        parts, directions = check_parameters(self._family.cell, whole)
        self._hold(parts, directions, stack.dropout, stack.variational)

    def _forward(
        self,
        x: Any,
        states: tuple[Any, ...],
        rng: np.random.Generator | None,
        keep_cache: bool,
        num_threads: int | None,
        **options: Any,
    ) -> Any:
        if rng is not None:
            check_rng(rng)
        if self._single is None:
            return self._stack.forward(x, states, rng, keep_cache, num_threads, **options)
        return _direction.forward(self._family, self._single, x, states, keep_cache, num_threads, **options)

    def forward(
        self,
        x: Any,
        h0: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        outputs: str = "all",
        rng: np.random.Generator | None = None,
        checkpoint_every: int | None = None,
        memory_budget: int | None = None,
        keep_cache: bool = True,
        num_threads: int | None = None,
    ) -> ForwardResult[Any, Any]:
        """Run over whole sequences; as the function for sequences does, with the weights of the layer.

        Parameters
        ----------
        x : array_like of shape (N, T, D)
            Input sequences; of another dtype than the layer they are converted.
        h0 : array_like that broadcasts to (N, H), optional
            Hidden state before the first step; zero without it. Of a stack (K, N, H), where K counts layers and
            directions: layer by layer, the reverse direction after the other one, as in PyTorch. P stands for H, here
            and below, in the shapes of hidden states of an LSTM that projects them.
        lengths, resets, outputs : optional
            As for the function: valid steps of each sequence (N,), steps before which states become zero (N, T), "all"
            or "last". The second direction runs from the last valid step to the first.
        rng : numpy.random.Generator, optional
            For training: what to drop is drawn from it. Without it nothing is dropped.
        checkpoint_every, memory_budget : int, optional
            As for the function: less to keep, and a second forward pass. Parts of a stack share the budget.
        keep_cache : bool, default True
            Whether to keep what `backward` needs.
        num_threads : int, optional
            Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

        Returns
        -------
        h : ndarray of shape (N, T, H), or (N, T, 2H) with two directions; without T if `outputs` is "last"
            Hidden states of the last layer: the same bits as those of the function. Those of the reverse direction are
            the second half.
        cache : object or None
            For `backward`; that of a single layer also for the function's.

        The result has `state`, the state after the last step, too, which the reverse direction has at the first one;
        of a stack (K, N, H).

        Raises
        ------
        TypeError, ValueError
            If a dtype or a shape does not fit.
        """
        return self._forward(
            x,
            (h0,),
            rng,
            keep_cache,
            num_threads,
            lengths=lengths,
            resets=resets,
            outputs=outputs,
            checkpoint_every=checkpoint_every,
            memory_budget=memory_budget,
        )

    def backward(self, dh: Any, cache: Any, *, dstate: Any = None, num_threads: int | None = None) -> LayerGradients:
        """Propagate gradients back through whole sequences.

        Parameters
        ----------
        dh : array_like of shape (N, T, H), or (N, T, 2H) with two directions, or either without T, or None
            Gradient of the loss with respect to the hidden states, or to the last ones only; None is zero.
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
        if self._single is None:
            return self._stack.backward(dh, cache, dstate, num_threads)
        result = _direction.backward(self._family, self._single, dh, cache, dstate, num_threads)
        gradients = LayerGradients((result.dx, _direction.named_gradients(self._single, result)))
        gradients.dh0 = result.dh0
        if "dc0" in vars(result):
            gradients.dc0 = result.dc0
        return gradients

    def step(self, x: Any, state: Any = None) -> Any:
        """Advance a state by one step; `stream` is faster, and keeps the state.

        Parameters
        ----------
        x : array_like of shape (N, D)
            Input of the step.
        state : state of the cell, optional
            State before the step, as from `forward` or `step`; zero without it. Of a stack (num_layers, N, H).

        Returns
        -------
        state
            After the step; its `h`, of a stack its `h[-1]`, is the output.

        Raises
        ------
        TypeError, ValueError
            If a dtype or a shape does not fit.
        """
        if self._single is None:
            return self._stack.step(x, state)
        states, of_cell = state, self._family.cell.states
        if type(state) is not self._family.state:
            states = check_state_tuple("state", "", of_cell, state)
        return self._family.state(*_direction.step(self._family, self._single, x, states))

    def stream(self, h0: Any = None, *, batch_size: int | None = None) -> Any:
        """Open a stream: steps in real time, with a state of its own, on the packed weights of this layer.

        Parameters
        ----------
        h0 : array_like of shape (N, H), optional
            Hidden state before the first step; zero without it. Of a stack it broadcasts to (num_layers, N, H).
        batch_size : int, optional
            Sequences N that go side by side; without it as many as `h0` has, or one.

        Returns
        -------
        stream
            Of the class of streams of this cell; of a stack a `StackStream`.

        Raises
        ------
        TypeError, ValueError
            If a dtype or a shape does not fit, or the layer is bidirectional.
        """
        return self._open_stream({"h0": h0}, batch_size)

    def _open_stream(self, states: dict[str, Any], batch_size: int | None) -> Any:
        check_one_direction(self._stack.directions, "stream")
        if self._single is None:
            return StackStream(self._stream, self._family.state, self._stack.parts, states, batch_size)
        return open_stream(self._stream, self._single, {name[0]: state for name, state in states.items()}, batch_size)

    def __repr__(self) -> str:
        stack, first = self._stack, self._stack.parts[0]
        facts = {
            "P": first.P if first.cell.projected else None,
            **{name: value for name, value in first.cell.options if name != "cell_clip"},
            "peepholes": first.has_peepholes or None,
            "cell_clip": first.cell_clip,
            "num_layers": stack.layers if stack.layers > 1 else None,
            "bidirectional": self.bidirectional or None,
            "dropout": stack.dropout or None,
            "variational": stack.variational or None,
        }
        told = "".join(f"{name}={fact!r}, " for name, fact in facts.items() if fact is not None)
        return f"{type(self).__name__}(D={first.D}, H={first.H}, {told}dtype={stack.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the weights: packed ones differ from host to host."""
        return _made, (type(self), self.parameters, self._facts())


def _made(kind: type[Layer], parameters: dict[str, np.ndarray], facts: dict[str, Any]) -> Layer:
    return kind.from_parameters(parameters, **facts)


class RNN(Layer):
    """A vanilla RNN whose weights are packed once.

    Parameters
    ----------
    Wx : array_like of shape (D, H)
        Weights of the input, float32 or float64.
    Wh : array_like of shape (H, H)
        Weights of the hidden state.
    b : array_like of shape (H,)
        Bias.
    activation : {"tanh", "relu"}, default "tanh"
        What makes the hidden state.
    clip : float, optional
        Largest magnitude of what goes into the activation.

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

    def __init__(self, Wx: Any, Wh: Any, b: Any, *, activation: str = "tanh", clip: float | None = None) -> None:
        self._choose({}, activation, clip)
        self._hold([{"Wx": Wx, "Wh": Wh, "b": b}])

    def _choose(self, parameters: Mapping[str, Any], activation: str = "tanh", clip: float | None = None) -> None:
        self._family = rnn.family(activation, clip)


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
    clip : float, optional
        Largest magnitude of what goes into the activations.

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

    def __init__(
        self, Wx: Any, Wh: Any, b: Any, *, bh: Any = None, reset_after: bool = True, clip: float | None = None
    ) -> None:
        self._choose({}, reset_after, clip)
        self._hold([{"Wx": Wx, "Wh": Wh, "b": b, "bh": bh}])

    def _choose(self, parameters: Mapping[str, Any], reset_after: bool = True, clip: float | None = None) -> None:
        self._family = gru.family(reset_after, clip)


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
    projection : array_like of shape (H, P), optional
        Weights that make the hidden state, which has P columns then, of what the units make; `Wh` is (P, 4H).
    peepholes : array_like of shape (3, H), optional
        Weights by which the gates i, f and o see the cell state. They are a parameter, and have a gradient.
    coupled : bool, default False
        Whether f is 1 - i: there are but the blocks i, o, g, 3H columns, and peepholes of i and o.
    cell_clip : float, optional
        Largest magnitude of a cell state.
    clip : float, optional
        Largest magnitude of what goes into the activations of gates.

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

    def __init__(
        self,
        Wx: Any,
        Wh: Any,
        b: Any,
        *,
        projection: Any = None,
        peepholes: Any = None,
        coupled: bool = False,
        cell_clip: float | None = None,
        clip: float | None = None,
    ) -> None:
        optional = {"projection": projection, "peepholes": peepholes}
        given = {"Wx": Wx, "Wh": Wh, "b": b, **{name: array for name, array in optional.items() if array is not None}}
        self._choose(given, coupled, cell_clip, clip)
        self._hold([given])

    def _choose(
        self,
        parameters: Mapping[str, Any],
        coupled: bool = False,
        cell_clip: float | None = None,
        clip: float | None = None,
    ) -> None:
        has_projection, has_peepholes = (
            any(str(name).startswith(array) for name in parameters) or None for array in ("projection", "peepholes")
        )
        self._family = lstm.family(has_projection, has_peepholes, coupled, cell_clip, clip)
        self._cell_clip = None if cell_clip is None else check_bound("cell_clip", cell_clip, "a cell state")

    def _facts(self) -> dict[str, Any]:
        facts = {"coupled": "coupled" in dict(self._family.cell.options), "cell_clip": self._cell_clip}
        return {**super()._facts(), **facts}

    def forward(
        self,
        x: Any,
        h0: Any = None,
        c0: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        outputs: str = "all",
        rng: np.random.Generator | None = None,
        checkpoint_every: int | None = None,
        memory_budget: int | None = None,
        keep_cache: bool = True,
        num_threads: int | None = None,
    ) -> ForwardResult[Any, Any]:
        """Run over whole sequences; as `Layer.forward`, with `c0`, the cell state before the first step."""
        return self._forward(
            x,
            (h0, c0),
            rng,
            keep_cache,
            num_threads,
            lengths=lengths,
            resets=resets,
            outputs=outputs,
            checkpoint_every=checkpoint_every,
            memory_budget=memory_budget,
        )

    def stream(self, h0: Any = None, c0: Any = None, *, batch_size: int | None = None) -> Any:
        """Open a stream; as `Layer.stream`, with `c0`, the cell state before the first step."""
        return self._open_stream({"h0": h0, "c0": c0}, batch_size)

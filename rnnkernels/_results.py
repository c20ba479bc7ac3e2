"""What the recurrent functions return: tuples that unpack as the contract says, with more to tell as attributes.

Small calls make them too, so making one is cheap: the classes have no ``__new__`` of their own.
"""

from collections.abc import Callable
from functools import cached_property
from operator import itemgetter
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import numpy as np

CacheT_co = TypeVar("CacheT_co", covariant=True)
StateT = TypeVar("StateT")


class RNNState(NamedTuple):
    """State of a vanilla RNN between two steps.

    Attributes
    ----------
    h : ndarray of shape (N, H)
        Hidden state.
    """

    h: Any

    def __repr__(self) -> str:
        return _describe(self, self._asdict())


class LSTMState(NamedTuple):
    """State of an LSTM between two steps.

    Attributes
    ----------
    h, c : ndarray of shape (N, H)
        Hidden and cell state; h is (N, P) where it is projected.
    """

    h: Any
    c: Any

    def __repr__(self) -> str:
        return _describe(self, self._asdict())


class GRUState(NamedTuple):
    """State of a GRU between two steps.

    Attributes
    ----------
    h : ndarray of shape (N, H)
        Hidden state.
    """

    h: Any

    def __repr__(self) -> str:
        return _describe(self, self._asdict())


class SequenceOptions(TypedDict, total=False):
    """Keyword arguments that all forward passes over sequences have."""

    lengths: Any
    reverse: bool
    resets: Any
    outputs: Literal["all", "last"]
    checkpoint_every: int | None
    memory_budget: int | None
    num_threads: int | None
    clip: float | None


class LSTMOptions(SequenceOptions, total=False):
    """And those of an LSTM."""

    projection: Any
    peepholes: Any
    coupled: bool
    cell_clip: float | None


class LSTMStepOptions(TypedDict, total=False):
    """Keyword arguments of a step of an LSTM."""

    projection: Any
    peepholes: Any
    coupled: bool
    cell_clip: float | None
    clip: float | None
    num_threads: int | None


class ForwardResult(tuple[np.ndarray, CacheT_co], Generic[CacheT_co, StateT]):
    """Result of a forward pass: a pair, with the state after the last step as an attribute.

    Whoever makes one sets either `state` or `make_state`, a function without arguments that is called when the state is
    first asked for.

    Attributes
    ----------
    h : ndarray of shape (N, T, H), or (N, H)
        Hidden state after every step, or after the last one.
    cache : object
        For the backward pass.
    state : RNNState, LSTMState or GRUState
        State after the last step: arrays of their own, which may be changed.

    Examples
    --------
    >>> result = ForwardResult((np.zeros((2, 3, 4)), None))
    >>> result.make_state = lambda: RNNState(np.zeros((2, 4)))
    >>> h, cache = result
    >>> result
    ForwardResult(h=float64 (2, 3, 4), cache=None, state=RNNState(h=float64 (2, 4)))
    """

    make_state: Callable[[], StateT]

    h: np.ndarray = property(itemgetter(0))  # type: ignore[assignment]
    cache: CacheT_co = property(itemgetter(1))  # type: ignore[assignment]

    @cached_property
    def state(self) -> StateT:
        return self.make_state()

    def __repr__(self) -> str:
        return _describe(self, {"h": self.h, "cache": self.cache, "state": self.state})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (tuple(self),), {"state": self.state}


class _Gradients(tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Five gradients; those of optional arguments are plain attributes, set by whoever makes it."""

    _names: tuple[str, ...]
    dc0: np.ndarray
    dbh: np.ndarray
    dpeepholes: np.ndarray
    dprojection: np.ndarray

    dx = property(itemgetter(0))
    dWx = property(itemgetter(2))
    dWh = property(itemgetter(3))
    db = property(itemgetter(4))

    def __repr__(self) -> str:
        return _describe(self, {**dict(zip(self._names, self, strict=True)), **vars(self)})


class SequenceGradients(_Gradients):
    """Result of a backward pass over sequences: five gradients as a tuple, and further ones as attributes.

    Attributes
    ----------
    dx, dh0, dWx, dWh, db : ndarray
        The five.
    dc0 : ndarray
        Gradient of the first cell state; of an LSTM.
    dbh : ndarray of shape (3H,)
        Gradient of the second bias; of a GRU.
    dpeepholes : ndarray of shape (3, H)
        Gradient of the peepholes; of an LSTM that has some, a clip or coupled gates, which make it (2, H).
    dprojection : ndarray of shape (H, P)
        Gradient of the projection; of an LSTM that has one.
    """

    _names = ("dx", "dh0", "dWx", "dWh", "db")
    dh0 = property(itemgetter(1))


class StepGradients(_Gradients):
    """Result of a backward pass over one step: five gradients as a tuple, and further ones as attributes.

    Attributes
    ----------
    dx, dprev_h, dWx, dWh, db : ndarray
        The five.
    dbh : ndarray of shape (3H,)
        Gradient of the second bias; of a GRU.
    """

    _names = ("dx", "dprev_h", "dWx", "dWh", "db")
    dprev_h = property(itemgetter(1))


class LSTMStepGradients(tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Result of a backward pass over one step of an LSTM: six gradients as a tuple, and further ones as attributes.

    Attributes
    ----------
    dx, dprev_h, dprev_c, dWx, dWh, db : ndarray
        The six.
    dpeepholes : ndarray of shape (3, H)
        Gradient of the peepholes; of an LSTM that has some, a clip or coupled gates, which make it (2, H).
    dprojection : ndarray of shape (H, P)
        Gradient of the projection; of an LSTM that has one.
    """

    dpeepholes: np.ndarray
    dprojection: np.ndarray
    _names = ("dx", "dprev_h", "dprev_c", "dWx", "dWh", "db")

    dx = property(itemgetter(0))
    dprev_h = property(itemgetter(1))
    dprev_c = property(itemgetter(2))
    dWx = property(itemgetter(3))
    dWh = property(itemgetter(4))
    db = property(itemgetter(5))

    def __repr__(self) -> str:
        return _describe(self, {**dict(zip(self._names, self, strict=True)), **vars(self)})


class LayerGradients(tuple[np.ndarray, dict[str, np.ndarray]]):
    """Result of the backward pass of a layer: a pair, with the gradients of the first states as attributes.

    Attributes
    ----------
    dx : ndarray of shape (N, T, D)
        Gradient of the input.
    gradients : dict of ndarray
        Of the parameters, by name.
    dh0 : ndarray
        Gradient of the first hidden state.
    dc0 : ndarray
        Gradient of the first cell state; of an LSTM.
    """

    dh0: np.ndarray
    dc0: np.ndarray

    dx = property(itemgetter(0))
    gradients = property(itemgetter(1))

    def __repr__(self) -> str:
        return _describe(self, {"dx": self.dx, **{f"d{name}": g for name, g in self.gradients.items()}, **vars(self)})


def _describe(result: object, fields: dict[str, Any]) -> str:
    """Name what an object has in one line: arrays by dtype and shape, other objects by their class."""
    return f"{type(result).__name__}({', '.join(f'{name}={_summary(value)}' for name, value in fields.items())})"


def _summary(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return repr(value) if value is None or isinstance(value, (RNNState, LSTMState, GRUState)) else type(value).__name__

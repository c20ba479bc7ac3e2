"""What the recurrent functions return: tuples that unpack as the contract says, with more to tell as attributes.

They are made once per call, of small calls too, so making one costs a fraction of a microsecond.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

CacheT = TypeVar("CacheT")
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
        Hidden and cell state.
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


class ForwardResult(tuple[np.ndarray, CacheT], Generic[CacheT, StateT]):
    """Result of a forward pass; unpacks to `h` and `cache`.

    Parameters
    ----------
    h : ndarray of shape (N, T, H)
        Hidden state after every step.
    cache : object
        For the backward pass.
    state : state, or function without arguments that makes it
        State after the last step. A function is called when the state is first asked for.
    """

    _state: StateT | Callable[[], StateT]

    def __new__(
        cls, h: np.ndarray, cache: CacheT, state: StateT | Callable[[], StateT]
    ) -> "ForwardResult[CacheT, StateT]":
        self = tuple.__new__(cls, (h, cache))
        self._state = state
        return self

    @property
    def h(self) -> np.ndarray:
        """Hidden state after every step."""
        return self[0]

    @property
    def cache(self) -> CacheT:
        """What the backward pass needs."""
        return self[1]

    @property
    def state(self) -> StateT:
        """State after the last step: arrays of their own, which may be changed."""
        if callable(self._state):
            self._state = self._state()
        return self._state

    def __repr__(self) -> str:
        return _describe(self, {"h": self.h, "cache": self.cache, "state": self.state})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.h, self.cache, self.state)


class _Gradients(tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Five gradients as a tuple, and those of optional arguments as plain attributes."""

    _names: tuple[str, ...]
    dc0: np.ndarray
    dbh: np.ndarray

    dx = property(itemgetter(0), doc="Gradient of the input.")
    dWx = property(itemgetter(2), doc="Gradient of the input's weights.")
    dWh = property(itemgetter(3), doc="Gradient of the hidden state's weights.")
    db = property(itemgetter(4), doc="Gradient of the bias.")

    def __new__(
        cls,
        dx: np.ndarray,
        dh: np.ndarray,
        dWx: np.ndarray,
        dWh: np.ndarray,
        db: np.ndarray,
        **others: np.ndarray,
    ) -> Any:
        self = tuple.__new__(cls, (dx, dh, dWx, dWh, db))
        self.__dict__ = others
        return self

    def __repr__(self) -> str:
        return _describe(self, {**dict(zip(self._names, self, strict=True)), **self.__dict__})

    def __getnewargs__(self) -> tuple[np.ndarray, ...]:
        return tuple(self)


class SequenceGradients(_Gradients):
    """Result of a backward pass over sequences; unpacks to `dx`, `dh0`, `dWx`, `dWh` and `db`.

    Attributes
    ----------
    dc0 : ndarray
        Gradient of the first cell state; of an LSTM.
    dbh : ndarray of shape (3H,)
        Gradient of the second bias; of a GRU.
    """

    _names = ("dx", "dh0", "dWx", "dWh", "db")
    dh0 = property(itemgetter(1), doc="Gradient of the hidden state before the first step.")


class StepGradients(_Gradients):
    """Result of a backward pass over one step; unpacks to `dx`, `dprev_h`, `dWx`, `dWh` and `db`.

    Attributes
    ----------
    dbh : ndarray of shape (3H,)
        Gradient of the second bias; of a GRU.
    """

    _names = ("dx", "dprev_h", "dWx", "dWh", "db")
    dprev_h = property(itemgetter(1), doc="Gradient of the hidden state before the step.")


def _describe(result: object, fields: dict[str, Any]) -> str:
    """Name what an object has in one line: arrays by dtype and shape, other objects by their class."""
    return f"{type(result).__name__}({', '.join(f'{name}={_summary(value)}' for name, value in fields.items())})"


def _summary(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return repr(value) if value is None or isinstance(value, (RNNState, LSTMState, GRUState)) else type(value).__name__

"""Weights of Keras: lists of arrays, and layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnkernels._checks.formats import check_array, check_convertible, check_kind, check_number, check_same
from rnnkernels.convert._form import Weights, arranged, both, direction, make_layer, one_layer, stack
from rnnkernels.layers import Layer

GATES = {"rnn": "h", "gru": "zrn", "lstm": "ifgo"}
CLASSES = ("SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell")
WRAPPERS = ("Bidirectional", "RNN")


def from_keras_weights(weights: Sequence[Any]) -> Weights:
    """Take the weights of a SimpleRNN, LSTM or GRU of Keras.

    Parameters
    ----------
    weights : sequence of array_like
        As from ``layer.get_weights()``: kernel, recurrent kernel and, if there is one, bias; of a `Bidirectional` layer
        those of both directions.

    Returns
    -------
    parameters : dict of ndarray
        Weights under the names of this package; a bias that is missing is zero.

    Raises
    ------
    TypeError, ValueError
        If a dtype, a shape or the number of arrays does not fit.

    See Also
    --------
    to_keras_weights : The inverse.

    Notes
    -----
    A GRU with a bias of shape (2, 3H) is one with ``reset_after=True``, with (3H,) one with ``reset_after=False``; that
    is an argument of the layer, not a weight.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import GRU, convert
    >>> weights = [np.ones((3, 6)), np.ones((2, 6)), np.zeros((2, 6))]
    >>> GRU(**convert.from_keras_weights(weights), reset_after=True)
    GRU(D=3, H=2, dtype=float64)
    """
    cure = "They are kernel, recurrent kernel and, if there is one, bias, of one direction or two."
    check_number("the number of arrays in `weights`", len(weights), (2, 3, 4, 6), cure)
    each = len(weights) // 2 if len(weights) > 3 else len(weights)
    return both(*(_direction(*weights[k : k + each]) for k in range(0, len(weights), each)))


def _direction(kernel: Any, recurrent_kernel: Any, bias: Any = None) -> Weights:
    Wx, Wh = check_array("kernel", kernel, 2), check_array("recurrent_kernel", recurrent_kernel, 2)
    biases: tuple[Any, ...] = (None, None)
    if bias is not None:
        b = check_array("bias", bias, (1, 2))
        biases = (b, None) if b.ndim == 1 else (b[0], b[1])
    return direction(GATES, "recurrent_kernel", Wx, Wh, *biases)


def to_keras_weights(parameters: Any, *, reset_after: bool | None = None) -> list[np.ndarray]:
    """List weights as a layer of Keras does.

    Parameters
    ----------
    parameters : layer or dict of array_like
        A layer, or the weights of one, of one direction or two.
    reset_after : bool, optional
        Of a GRU whose weights come as a dict: where its reset gate acts; True without it.

    Returns
    -------
    weights : list of ndarray
        For ``layer.set_weights``: kernel, recurrent kernel and bias of each direction.

    Raises
    ------
    TypeError, ValueError
        If a name, a dtype or a shape does not fit, or there is more than one layer.

    See Also
    --------
    from_keras_weights : The inverse.
    unstack : Parts a stack into its layers.

    Examples
    --------
    >>> from rnnkernels import GRU, convert
    >>> [array.shape for array in convert.to_keras_weights(GRU.create(3, 2))]
    [(3, 6), (2, 6), (2, 6)]
    """
    parts, reset_after = one_layer(parameters, "Keras", reset_after)
    weights = []
    for part in parts:
        cell, (*kernels, b, bh) = arranged(part, GATES)
        weights += [*kernels, np.stack([b, bh]) if len(cell.biases) > 1 and reset_after else b + bh]
    return weights


def from_keras(*layers: Any) -> Layer:
    """Make a layer of a layer of Keras.

    Parameters
    ----------
    *layers : keras.layers.Layer
        A built `SimpleRNN`, `LSTM` or `GRU`, an `RNN` of one of their cells, or a `Bidirectional` one of these; several
        that follow one another become one stack.

    Returns
    -------
    layer : RNN, LSTM or GRU
        With copies of the weights. Dropout is left behind.

    Raises
    ------
    TypeError, ValueError
        If it is something else, or has what no cell here has: another activation, steps that go backwards.

    Examples
    --------
    >>> import keras  # doctest: +SKIP
    >>> model = keras.saving.load_model("model.keras")  # doctest: +SKIP
    >>> layer = convert.from_keras(model.get_layer("lstm"))  # doctest: +SKIP
    """
    options = [_options(layer) for layer in layers]
    for others in options:
        check_same("reset_after", others.get("reset_after"), options[0].get("reset_after"))
        check_same("activation", others.get("activation"), options[0].get("activation"))
    weights = stack(*(from_keras_weights(layer.get_weights()) for layer in layers))
    return make_layer(weights, **(options[0] if options else {}))


def _options(layer: Any) -> dict[str, Any]:
    """Check the configuration of a layer and of the layers that it wraps; what the class of a layer here is to know."""
    name, config = type(layer).__name__, layer.get_config()
    cells = [(name, config)]
    if "layer" in config or "cell" in config:
        check_kind("the layer of Keras", name, WRAPPERS)
        check_convertible("keras", name, {name: value for name, value in config.items() if name != "activation"})
        cells = [
            (inner["class_name"], {**inner["config"], **({"go_backwards": False} if key == "backward_layer" else {})})
            for key in ("layer", "backward_layer", "cell")
            if (inner := config.get(key)) is not None
        ]
    found: dict[str, Any] = {}
    for name, config in cells:
        check_kind("the layer of Keras", name, CLASSES)
        relu = config.get("activation") == "relu" and name.startswith("SimpleRNN")
        check_convertible("keras", name, {**config, **({"activation": "tanh"} if relu else {})})
        if relu:
            found["activation"] = "relu"
        if name.startswith("GRU") and not config.get("reset_after", True):
            found["reset_after"] = False
    return found

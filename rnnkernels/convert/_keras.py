"""Weights of Keras: lists of arrays, and layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnkernels._checks.formats import check_alike, check_array, check_convertible, check_kind, check_number
from rnnkernels.convert._form import Weights, arranged, both, direction, make_layer, one_layer, stack
from rnnkernels.layers import Layer

GATES = {"rnn": "h", "gru": "zrn", "lstm": "ifgo"}
ACTIVATIONS = {"SimpleRNN": ("tanh", "relu"), "LSTM": ("tanh",), "GRU": ("tanh",)}
CLASSES = ("SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell")
WRAPPERS = ("Bidirectional", "RNN")
WRAPPED = {"layer": "forward_layer", "backward_layer": "backward_layer", "cell": "cell"}
"""Attributes of wrappers, by what their configuration calls them."""


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
    return direction(GATES, ("recurrent_kernel", "bias", "bias"), Wx, Wh, *biases)


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
        that follow one another become one stack. All parts are of the same class, activation and `reset_after`.

    Returns
    -------
    layer : RNN, LSTM or GRU
        With copies of the weights. Dropout is left behind.

    Raises
    ------
    TypeError, ValueError
        If it is something else, or has what no cell here has: another activation, steps that go backwards; or if parts
        differ.

    Examples
    --------
    >>> import keras  # doctest: +SKIP
    >>> model = keras.saving.load_model("model.keras")  # doctest: +SKIP
    >>> layer = convert.from_keras(model.get_layer("lstm"))  # doctest: +SKIP
    """
    parts: dict[str, dict[str, Any]] = {}
    for k, layer in enumerate(layers):
        parts |= _parts(f"layers[{k}]", type(layer).__name__, layer.get_config())
    check_alike(parts)
    weights = stack(*(from_keras_weights(layer.get_weights()) for layer in layers))
    options = next(iter(parts.values()))
    return make_layer(weights, **{name: value for name, value in options.items() if name != "class"})


def _parts(owner: str, kind: str, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Check the configuration of a layer and of what it wraps; class and options of each part, by name."""
    inner = {key: config[key] for key in WRAPPED if config.get(key) is not None}
    if inner:
        check_kind("the layer of Keras", kind, WRAPPERS)
        check_convertible("keras", kind, config)
        parts: dict[str, dict[str, Any]] = {}
        for key, each in inner.items():
            turned = {"go_backwards": False} if key == "backward_layer" else {}
            parts |= _parts(f"{owner}.{WRAPPED[key]}", each["class_name"], {**each["config"], **turned})
        return parts
    check_kind("the layer of Keras", kind, CLASSES)
    options: dict[str, Any] = {"class": kind.removesuffix("Cell")}
    check_convertible("keras", kind, config, activation=ACTIVATIONS[options["class"]])
    if options["class"] == "SimpleRNN":
        options["activation"] = config.get("activation", "tanh")
    if options["class"] == "GRU":
        options["reset_after"] = bool(config.get("reset_after", True))
    return {owner: options}

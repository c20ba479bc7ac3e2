"""Weights of Flax: dicts of the parameters of cells."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnkernels._checks.formats import check_array, check_kind, check_reset_after
from rnnkernels.convert._form import GATES, KINDS, Weights, both, cell_of, direction, make_layer, one_layer
from rnnkernels.kernels.cell import Cell
from rnnkernels.layers import Layer

WAYS = ("forward_rnn", "backward_rnn")
BIASED = {"rnn": ("i",), "gru": ("ir", "iz", "in", "hn"), "lstm": ("hi", "hf", "hg", "ho")}
"""Parts that have a bias in Flax."""


def from_flax_params(params: Mapping[str, Any]) -> Weights:
    """Take the weights of a SimpleCell, GRUCell, LSTMCell or OptimizedLSTMCell of Flax.

    Parameters
    ----------
    params : mapping
        Parameters of the cell, of an `RNN` around it, or of a `Bidirectional` around two; also as
        ``{"params": ...}``.

    Returns
    -------
    parameters : dict of ndarray
        Weights under the names of this package; biases that are missing are zero.

    Raises
    ------
    TypeError, ValueError
        If a part is missing or unknown, or a dtype or a shape does not fit.

    See Also
    --------
    to_flax_params : The inverse.

    Notes
    -----
    Activations are no parameters: they are taken for the default ones, sigmoid and tanh.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import RNN, convert
    >>> params = {"i": {"kernel": np.ones((3, 2)), "bias": np.zeros(2)}, "h": {"kernel": np.ones((2, 2))}}
    >>> RNN(**convert.from_flax_params(params))
    RNN(D=3, H=2, dtype=float64)
    """
    for wrapper in ("params", "cell"):
        if set(params) == {wrapper}:
            params = params[wrapper]
    if set(params) == set(WAYS):
        return both(*(from_flax_params(params[way]) for way in WAYS))
    cells = {" ".join(sorted(_parts(cell))): cell for cell in (kind._family.cell for kind in KINDS.values())}
    cell = cells[check_kind("the parts of `params`", " ".join(sorted(params)), cells)]
    parts = _parts(cell)
    kernels = [check_array(f"{part}.kernel", params[part]["kernel"], 2) for part in parts]
    biases = [
        check_array(f"{part}.bias", params[part]["bias"], 1) if "bias" in params[part] else np.zeros_like(kernel[0])
        for part, kernel in zip(parts, kernels, strict=True)
    ]
    half = len(cell.gates)
    Wx, Wh = (np.concatenate(blocks, axis=1) for blocks in (kernels[:half], kernels[half:]))
    known_as = "kernels of h", "biases of i", "biases of h"
    return direction(GATES, known_as, Wx, Wh, np.concatenate(biases[:half]), np.concatenate(biases[half:]))


def _parts(cell: Cell) -> list[str]:
    """Names in Flax of what acts on the input, and then of what acts on the hidden state, in our order of gates."""
    gates = cell.gates if len(cell.gates) > 1 else ("",)
    return [f"{side}{gate}" for side in "ih" for gate in gates]


def to_flax_params(parameters: Any) -> dict[str, Any]:
    """Name weights as a SimpleCell, GRUCell, LSTMCell or OptimizedLSTMCell of Flax does.

    Parameters
    ----------
    parameters : layer or dict of array_like
        A layer, or the weights of one, of one direction or two.

    Returns
    -------
    params : dict
        Of the cell, for ``cell.apply({"params": params}, ...)``; of two directions those of a `Bidirectional` around
        two `RNN`.

    Raises
    ------
    TypeError, ValueError
        If a name, a dtype or a shape does not fit, there is more than one layer, or the layer is a GRU whose reset gate
        acts before the product.

    See Also
    --------
    from_flax_params : The inverse.
    unstack : Parts a stack into its layers.

    Examples
    --------
    >>> from rnnkernels import RNN, convert
    >>> params = convert.to_flax_params(RNN.create(3, 2))
    >>> {part: list(arrays) for part, arrays in params.items()}
    {'i': ['kernel', 'bias'], 'h': ['kernel']}
    """
    directions, reset_after = one_layer(parameters, "Flax")
    check_reset_after("Flax", reset_after)
    params = [_params(weights) for weights in directions]
    return params[0] if len(params) == 1 else {way: {"cell": own} for way, own in zip(WAYS, params, strict=True)}


def _params(weights: Weights) -> dict[str, Any]:
    cell = cell_of("Wh", weights["Wh"])
    count, parts = len(cell.gates), _parts(cell)
    kernels = [block for name in ("Wx", "Wh") for block in np.split(weights[name], count, axis=1)]
    params: dict[str, Any] = {part: {"kernel": kernel.copy()} for part, kernel in zip(parts, kernels, strict=True)}
    first = np.split(weights["b"], count)
    second = np.split(weights.get("bh", np.zeros_like(weights["b"])), count)
    for (i, h), b, bh in zip(zip(parts[:count], parts[count:], strict=True), first, second, strict=True):
        biased = [part for part in (i, h) if part in BIASED[cell.name]]
        for part, bias in zip(biased, (b, bh) if len(biased) == 2 else (b + bh,), strict=True):
            params[part]["bias"] = bias.copy()
    return params


def from_flax(params: Mapping[str, Any]) -> Layer:
    """Make a layer of the parameters of a cell of Flax.

    Parameters
    ----------
    params : mapping
        As for `from_flax_params`.

    Returns
    -------
    layer : RNN, LSTM or GRU
        With copies of the weights.

    Raises
    ------
    TypeError, ValueError
        As `from_flax_params`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import convert
    >>> convert.from_flax({"i": {"kernel": np.ones((3, 2))}, "h": {"kernel": np.ones((2, 2))}})
    RNN(D=3, H=2, dtype=float64)
    """
    return make_layer(from_flax_params(params))

"""The form in the middle: weights of layers and directions as one dict of named arrays.

One direction of one layer is `Wx`, `Wh`, `b`, `bh` of a GRU, and `projection` of an LSTM that has one. With more layers
each name ends in `_l0`, `_l1`, ...; the second direction ends in `_reverse`, as in `Wx_l1_reverse`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnkernels._checks.arrays import check_shape
from rnnkernels._checks.cells import check_layer, check_projection
from rnnkernels._checks.formats import (
    check_array,
    check_found,
    check_gates,
    check_known,
    check_no_projection,
    check_number,
    check_plain_cell,
    check_same,
)
from rnnkernels.kernels.cell import Cell
from rnnkernels.kernels.lstm import PROJECTED
from rnnkernels.layers import GRU, LSTM, RNN, Layer

Weights = dict[str, np.ndarray]

KINDS = {len(kind._family.cell.gates): kind for kind in (RNN, GRU, LSTM)}
GATES = {kind._family.cell.name: kind._family.cell.gates for kind in KINDS.values()}
NAME = re.compile(r"(Wx|Wh|b|bh|projection)(?:_l(0|[1-9]\d*))?(_reverse)?")


def cell_of(name: str, Wh: np.ndarray, projection: Any = None) -> Cell:
    """Tell the cell by its number of gates, from weights (H, GH) of the hidden state, or by a projection."""
    if projection is not None:
        return PROJECTED
    return KINDS[check_gates(name, Wh, KINDS)]._family.cell


def exchange(array: np.ndarray, given: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Bring gate blocks, which lie along the last axis, from one order to another; always a copy."""
    blocks = np.split(array, len(given), axis=-1)
    return np.concatenate([blocks[given.index(gate)] for gate in wanted], axis=-1)


def direction(
    given: Mapping[str, Sequence[str]],
    known_as: tuple[str, str, str],
    Wx: Any,
    Wh: Any,
    first: Any,
    second: Any = None,
    projection: Any = None,
) -> Weights:
    """Weights of one direction, checked, from arrays (D, GH), (H, GH) and two biases (GH,) or None, always copies.

    The gates are in the order that `given` has for the cell; `known_as` is what the caller calls `Wh` and the biases.
    The second bias of a cell that has only one is added to the first. With a projection (H, P), Wh is (P, GH).
    """
    cell = cell_of(known_as[0], Wh, projection)
    zero = np.zeros(Wh.shape[1], Wh.dtype)
    first, second = (zero if bias is None else bias for bias in (first, second))
    for name, bias in zip(known_as[1:], (first, second), strict=True):
        check_shape(name, bias, "(GH,)", zero.shape, f"`{known_as[0]}`")
    biases = (first, second) if cell.bias_count > 1 else (first + second,)
    if cell.projected:
        biases = *biases, check_projection(cell, projection, biases[0])
    Wx, Wh, checked = check_layer(cell, Wx, Wh, dict(zip(cell.biases, biases, strict=True)))
    names = ("Wx", "Wh", *cell.biases[: cell.bias_count])
    arrays = (exchange(array, given[cell.name], cell.gates) for array in (Wx, Wh, *checked[: cell.bias_count]))
    weights = dict(zip(names, arrays, strict=True))
    if cell.projected:
        weights["projection"] = checked[-1].reshape(-1, len(Wh)).copy()
    return weights


def arranged(weights: Weights, wanted: Mapping[str, Sequence[str]]) -> tuple[Cell, list[np.ndarray]]:
    """Wx, Wh and two biases of one direction with the gates in another order; the second bias may be zero."""
    cell = cell_of("Wh", weights["Wh"], weights.get("projection"))
    second = weights.get("bh", np.zeros_like(weights["b"]))
    arrays = (weights["Wx"], weights["Wh"], weights["b"], second)
    return cell, [exchange(array, cell.gates, wanted[cell.name]) for array in arrays]


def both(forward: Weights, backward: Weights | None = None) -> Weights:
    """Weights of one layer from those of its directions."""
    return {**forward, **{f"{name}_reverse": array for name, array in (backward or {}).items()}}


def directions(layer: Mapping[str, Any]) -> list[Weights]:
    """Weights of each direction of one layer, checked: the inverse of `both`."""
    found: dict[str, Weights] = {}
    for name, value in layer.items():
        bare, reverse = name.removesuffix("_reverse"), name.endswith("_reverse")
        found.setdefault("_reverse" if reverse else "", {})[bare] = check_array(name, value, 1 if bare[0] == "b" else 2)
    result = []
    for suffix in ("", "_reverse")[: max(len(found), 1)]:
        weights = found.get(suffix, {})
        check_found("`parameters`", [f"{name}{suffix}" for name in ("Wx", "Wh", "b")], layer)
        cell = cell_of(f"Wh{suffix}", weights["Wh"], weights.get("projection"))
        check_known("`parameters`", weights, ("Wx", "Wh", *cell.biases))
        biases = weights["b"], weights.get("bh")
        known_as = f"Wh{suffix}", f"b{suffix}", f"bh{suffix}"
        result.append(direction(GATES, known_as, weights["Wx"], weights["Wh"], *biases, weights.get("projection")))
    return result


def stack(*layers: Mapping[str, Any]) -> Weights:
    """Join the weights of layers that follow one another.

    Parameters
    ----------
    *layers : dict of array_like
        Weights of one layer each, of one direction or two.

    Returns
    -------
    parameters : dict of array_like
        The same arrays under the names that they have in a stack; those of a single layer keep theirs.

    Raises
    ------
    ValueError
        If there is no layer.

    See Also
    --------
    unstack : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import convert
    >>> first, second = {"Wx": np.zeros((3, 2))}, {"Wx": np.zeros((2, 2))}
    >>> list(convert.stack(first, second))
    ['Wx_l0', 'Wx_l1']
    """
    check_found("`layers`", ["one layer at least"], ["one layer at least"] * len(layers))
    if len(layers) == 1:
        return dict(layers[0])
    return {
        f"{name.removesuffix('_reverse')}_l{k}{'_reverse' if name.endswith('_reverse') else ''}": array
        for k, layer in enumerate(layers)
        for name, array in layer.items()
    }


def unstack(parameters: Mapping[str, Any]) -> list[Weights]:
    """Part the weights of a stack into those of its layers.

    Parameters
    ----------
    parameters : dict of array_like
        As a layer of this package names them.

    Returns
    -------
    layers : list of dict of array_like
        The same arrays under the names that they have in a single layer.

    Raises
    ------
    ValueError
        If a name is unknown, or a layer is missing.

    See Also
    --------
    stack : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import convert
    >>> [list(layer) for layer in convert.unstack({"b_l0": 0, "b_l0_reverse": 1, "b_l1": 2, "b_l1_reverse": 3})]
    [['b', 'b_reverse'], ['b', 'b_reverse']]
    """
    layers: dict[int, Weights] = {}
    for name, array in parameters.items():
        match = NAME.fullmatch(name)
        check_known("`parameters`", [name], [name] if match else ["Wx", "Wh", "b", "bh", "Wx_l0", "Wx_reverse", "..."])
        bare, k, reverse = match.groups() if match else ("", None, None)
        layer, key = layers.setdefault(int(k or 0), {}), f"{bare}{reverse or ''}"
        check_number(f"the number of arrays for `{key}` of layer {k or 0}", 1 + (key in layer), [1], f"See `{name}`.")
        layer[key] = array
    check_found("`parameters`", [f"layer {k}" for k in range(max(len(layers), 1))], [f"layer {k}" for k in layers])
    return [layers[k] for k in range(len(layers))]


def one_layer(parameters: Any, target: str, reset_after: bool | None = None) -> tuple[list[Weights], bool]:
    """Directions of a layer, or of a dict of the weights of one, and where its reset gate acts."""
    weights, reset_after = source_of(parameters, reset_after)
    layers = unstack(weights)
    check_no_projection(target, weights)
    check_number(f"the number of layers for {target}", len(layers), [1], "Take them from `convert.unstack`.")
    return directions(layers[0]), reset_after


def source_of(parameters: Any, reset_after: bool | None = None) -> tuple[Mapping[str, Any], bool]:
    """Weights of a layer, or a dict of them, and where its reset gate acts."""
    if not isinstance(parameters, Layer):
        return parameters, reset_after is not False
    cell = parameters._family.cell
    check_plain_cell(type(parameters).__name__, cell.own > 0 or cell.clip < math.inf)
    own = bool(dict(cell.options).get("reset_after", True))
    check_same("reset_after", reset_after, own)
    return parameters.parameters, own


def make_layer(parameters: Weights, **options: Any) -> Layer:
    """Make a layer of converted weights, with options of its class: the only place where that is done."""
    first = next(name for name in parameters if name.startswith("Wh"))
    is_lstm = "coupled" in options or any(name.startswith("projection") for name in parameters)
    kind: Any = LSTM if is_lstm else KINDS[check_gates(first, parameters[first], KINDS)]
    return kind.from_parameters(parameters, **options)

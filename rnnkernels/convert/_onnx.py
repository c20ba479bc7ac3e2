"""Weights of ONNX: tensors of nodes, and models."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnkernels import _graph
from rnnkernels._checks.arrays import check_shape
from rnnkernels._checks.formats import (
    check_array,
    check_convertible,
    check_forward,
    check_found,
    check_kind,
    check_number,
    check_same,
)
from rnnkernels.convert._form import Weights, arranged, both, direction, directions, make_layer, one_layer
from rnnkernels.layers import Layer

GATES = {"rnn": "h", "gru": "zrn", "lstm": "iofg"}
ACTIVATIONS = {"RNN": (["Tanh"], ["Relu"]), "GRU": (["Sigmoid", "Tanh"],), "LSTM": (["Sigmoid", "Tanh", "Tanh"],)}
"""What those of a direction of a node may be."""
WAYS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Whether each direction of a node goes backwards."""


def from_onnx_tensors(W: Any, R: Any, B: Any = None) -> Weights:
    """Take the weights of an RNN, LSTM or GRU node of ONNX.

    Parameters
    ----------
    W : array_like of shape (directions, G * H, D)
        Weights of the input; G is the number of gates.
    R : array_like of shape (directions, G * H, H)
        Weights of the hidden state.
    B : array_like of shape (directions, 2 * G * H), optional
        Biases of the input and of the hidden state; zero without it.

    Returns
    -------
    parameters : dict of ndarray
        Weights under the names of this package.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.

    See Also
    --------
    to_onnx_tensors : The inverse.

    Notes
    -----
    A GRU node is one with ``reset_after=True`` if its attribute `linear_before_reset` is not 0, which is its default;
    that is an argument of the layer, not a weight.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import GRU, convert
    >>> weights = convert.from_onnx_tensors(np.ones((1, 6, 3)), np.ones((1, 6, 2)))
    >>> GRU(**weights, reset_after=False)
    GRU(D=3, H=2, reset_after=False, dtype=float64)
    """
    W, R = check_array("W", W, 3), check_array("R", R, 3)
    check_number("the number of directions of `W`", len(W), (1, 2), "It is the first axis.")
    check_shape("R", R, "(directions, GH, H)", (len(W), *R.shape[1:]), "`W`")
    biases: Any = [None] * len(W)
    if B is not None:
        B = check_array("B", B, 2)
        check_shape("B", B, "(directions, 2GH)", (len(W), 2 * R.shape[1]), "`W` and `R`")
        biases = B
    return both(*(_direction(*parts) for parts in zip(W, R, biases, strict=True)))


def _direction(W: np.ndarray, R: np.ndarray, B: np.ndarray | None) -> Weights:
    biases = (None, None) if B is None else np.split(B, 2)
    return direction(GATES, ("R.T", "B", "B"), W.T, R.T, *biases)


def to_onnx_tensors(parameters: Any) -> dict[str, np.ndarray]:
    """Arrange weights as the tensors of a node of ONNX.

    Parameters
    ----------
    parameters : layer or dict of array_like
        A layer, or the weights of one, of one direction or two.

    Returns
    -------
    tensors : dict of ndarray
        `W`, `R` and `B`. The node needs the attributes `hidden_size`, `direction` of two directions, and
        ``linear_before_reset=1`` of a GRU with ``reset_after=True``.

    Raises
    ------
    TypeError, ValueError
        If a name, a dtype or a shape does not fit, or there is more than one layer.

    See Also
    --------
    from_onnx_tensors : The inverse.
    unstack : Parts a stack into its layers.

    Examples
    --------
    >>> from rnnkernels import LSTM, convert
    >>> {name: tensor.shape for name, tensor in convert.to_onnx_tensors(LSTM.create(3, 2)).items()}
    {'W': (1, 8, 3), 'R': (1, 8, 2), 'B': (1, 16)}
    """
    parts, _ = one_layer(parameters, "ONNX")
    tensors: dict[str, list[np.ndarray]] = {"W": [], "R": [], "B": []}
    for part in parts:
        _, (Wx, Wh, *biases) = arranged(part, GATES)
        for name, tensor in zip(tensors, (Wx.T, Wh.T, np.concatenate(biases)), strict=True):
            tensors[name].append(tensor)
    return {name: np.stack(found) for name, found in tensors.items()}


def from_onnx_node(
    node: _graph.Node, constants: Mapping[str, np.ndarray]
) -> tuple[list[Weights], dict[str, Any], tuple[bool, ...]]:
    """Take the weights of a node of a graph, of each direction; with options of the layer, and which go backwards."""
    attributes = dict(node.attributes)
    ways = WAYS[check_kind(f"`direction` of {node}", attributes.get("direction", "forward"), WAYS)]
    if activations := [name.capitalize() for name in attributes.pop("activations", [])]:
        attributes["activations"] = activations
    allowed = tuple(names * len(ways) for names in ACTIVATIONS[node.op])
    check_convertible("onnx", str(node), attributes, activations=allowed)
    inputs = dict(zip(("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"), node.inputs, strict=False))
    names = [name for name in ("W", "R", "B", "P") if inputs.get(name)]
    cure = " They must be dense initializers, or follow from some."
    check_found(
        f"the constant inputs of {node}",
        {"W": 0, "R": 0} | dict.fromkeys(names),
        [name for name in names if inputs[name] in constants],
        cure,
    )
    tensors = {name: constants[inputs[name]] for name in names}
    peepholes = tensors.pop("P", None)
    R = check_array("R", tensors["R"], 3)
    check_number(f"the number of directions of {node}", len(R), [len(ways)], "It follows from `direction`.")
    rows = len(GATES[node.op.lower()]) * R.shape[2]
    check_shape("R", R, "(directions, GH, H)", (len(R), rows, R.shape[2]), str(node))
    weights = from_onnx_tensors(**tensors)
    check_same("hidden_size", attributes.get("hidden_size"), len(weights["Wh"]))
    parts, options = directions(weights), dict[str, Any]()
    if node.op == "GRU" and not attributes.get("linear_before_reset", 0):
        options["reset_after"] = False
    if attributes.get("clip", 0) != 0:
        options["clip"] = attributes["clip"]
    if "Relu" in activations:
        options["activation"] = "relu"
    if peepholes is not None and np.any(peepholes):
        P = check_array("P", peepholes, 2)
        check_shape("P", P, "(directions, 3H)", (len(parts), 3 * len(weights["Wh"])), "`W` and `R`")
        for part, values in zip(parts, P, strict=True):
            part["peepholes"] = values.reshape(3, -1)[["iof".index(gate) for gate in "ifo"]]
    if attributes.get("input_forget", 0):
        options["coupled"] = True
        parts = [_coupled(part) for part in parts]
    return parts, options, ways


def _coupled(weights: Weights) -> Weights:
    """Weights of an LSTM without those of its forget gate, which follows from the input gate."""
    H = len(weights["Wh"])
    weights = {
        name: array[["ifo".index(gate) for gate in "io"]]
        if name == "peepholes"
        else np.delete(array, slice(H, 2 * H), axis=-1)
        for name, array in weights.items()
    }
    return {name: np.ascontiguousarray(array) for name, array in weights.items()}


def from_onnx(source: Any, node: str | int | None = None) -> Layer:
    """Make a layer of a recurrent node of an ONNX model.

    Parameters
    ----------
    source : path-like or onnx.ModelProto
        The model.
    node : str or int, optional
        Name of an RNN, LSTM or GRU node, or its number among these, from 0; not needed if there is only one.

    Returns
    -------
    layer : RNN, LSTM or GRU
        With copies of the weights. Arrays are batch-major here, whatever the attribute `layout` says.

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed, which is the extra `onnx`.
    TypeError, ValueError
        If there is no such node, its weights are not constant, it runs backwards only, or it has what no cell here has,
        other activations.

    See Also
    --------
    rnnkernels.onnx.load : Runs a whole model.

    Examples
    --------
    >>> from rnnkernels import convert
    >>> layer = convert.from_onnx("model.onnx")  # doctest: +SKIP
    """
    graph = _graph.read(source)
    found = [each for each in graph.nodes if each.op in _graph.RECURRENT]
    if node is None:
        names = ", ".join(repr(each.name or k) for k, each in enumerate(found))
        check_number(
            "the number of RNN, LSTM and GRU nodes", len(found), [1], f"Pass `node`, one of {names}." if found else ""
        )
        node = 0
    nodes = {key: each for k, each in enumerate(found) for key in (str(k), each.name)}
    check_found("the model", [str(node)], nodes)
    parts, options, ways = from_onnx_node(nodes[str(node)], graph.constants)
    check_forward(str(nodes[str(node)]), ways == (True,))
    return make_layer(both(*parts), **options)

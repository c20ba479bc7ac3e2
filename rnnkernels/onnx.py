"""ONNX models whose recurrent nodes are RNN, LSTM and GRU, run as a whole on the kernels of this package."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from rnnkernels import _graph
from rnnkernels._checks.arrays import check_shape
from rnnkernels._checks.formats import (
    check_found,
    check_known,
    check_made,
    check_model_input,
    check_number,
    check_operators,
)
from rnnkernels.convert._form import make_layer
from rnnkernels.convert._onnx import from_onnx_node
from rnnkernels.layers import Layer

__all__ = ["Model", "load"]


class Model:
    """A model that `load` has read: weights are packed, and what is constant is computed.

    Attributes
    ----------
    inputs, outputs : tuple of str
        Names, in the order of calls and results.
    """

    def __init__(self, graph: _graph.Graph) -> None:
        check_operators([node for node in graph.nodes if node.op not in (*_graph.OPERATORS, *_graph.RECURRENT)])
        self._constants, self._values = graph.constants, graph.inputs
        self.inputs = tuple(value.name for value in graph.inputs)
        self.outputs = tuple(graph.outputs)
        made = {"", *graph.constants, *self.inputs}
        for node in graph.nodes:
            check_made(f"the inputs of {node}", node.inputs, made)
            made.update(node.outputs)
        check_made("the outputs of the model", graph.outputs, made)
        last = {name: k for k, node in enumerate(graph.nodes) for name in node.inputs}
        kept = {"", *graph.constants, *graph.outputs}
        self._steps = [
            (_function(node, graph), node, {name for name in node.inputs if last[name] == k and name not in kept})
            for k, node in enumerate(graph.nodes)
        ]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Compute all outputs.

        Parameters
        ----------
        inputs : mapping of str to array_like
            All inputs by name; of another dtype than that of the model they are converted.

        Returns
        -------
        outputs : dict of ndarray
            All outputs by name.

        Raises
        ------
        TypeError, ValueError
            If an input is missing or unknown, or its dtype or shape does not fit.
        """
        check_known("the inputs", inputs, self.inputs)
        check_found("the inputs", self.inputs, inputs)
        values: dict[str, Any] = {"": None, **self._constants}
        for name, dtype, shape in self._values:
            values[name] = check_model_input(name, inputs[name], dtype, shape)
        for function, node, last_used in self._steps:
            results = function(*(values[name] for name in node.inputs))
            values.update(zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=False))
            values[""] = None
            for name in last_used:
                del values[name]
        return {name: values[name] for name in self.outputs}

    def __call__(self, *inputs: Any) -> Any:
        """Compute all outputs from inputs in their order; a tuple, or the array itself of a single output."""
        check_number("the number of inputs", len(inputs), [len(self.inputs)], f"They are {', '.join(self.inputs)}.")
        outputs = tuple(self.run(dict(zip(self.inputs, inputs, strict=True))).values())
        return outputs[0] if len(outputs) == 1 else outputs

    def __repr__(self) -> str:
        return f"Model(inputs={self.inputs}, outputs={self.outputs})"


def _function(node: _graph.Node, graph: _graph.Graph) -> Callable[..., Any]:
    """What computes a node from its inputs."""
    if node.op not in _graph.RECURRENT:
        return _graph.operation(node, graph.opset)
    parts, options, ways = from_onnx_node(node, graph.constants)
    layers = [make_layer(part, **options) for part in parts]
    is_batch_major = bool(node.attributes.get("layout", 0))
    return partial(_run_recurrent, str(node), list(zip(layers, ways, strict=True)), is_batch_major)


def _run_recurrent(
    owner: str,
    layers: list[tuple[Layer, bool]],
    is_batch_major: bool,
    x: np.ndarray,
    W: np.ndarray,
    R: np.ndarray,
    B: np.ndarray | None = None,
    sequence_lens: np.ndarray | None = None,
    initial_h: np.ndarray | None = None,
    initial_c: np.ndarray | None = None,
    P: np.ndarray | None = None,
) -> tuple[np.ndarray, ...]:
    """Run a recurrent node; the layers have W, R, B and P already. Half precision is computed in float32."""
    batch = 0 if is_batch_major else 1  # axis of sequences in x; directions lie before units and before the batch
    layer, dtype = layers[0][0], x.dtype
    x = np.moveaxis(x, batch, 0).astype(layer.dtype, copy=False)
    given = (initial_h, initial_c)[: len(layer._family.cell.states)]
    symbols, shape = "(directions, N, H)", (len(R), len(x), R.shape[2])
    if is_batch_major:
        symbols, shape = "(N, directions, H)", (len(x), len(R), R.shape[2])
    states = []
    for name, state in zip(("initial_h", "initial_c"), given, strict=False):
        if state is not None:
            check_shape(name, state, symbols, shape, f"`X` and `R` of {owner}")
            state = np.moveaxis(state, 1 - batch, 0).astype(layer.dtype, copy=False)
        states.append(state)
    outputs, last = [], []
    for k, (layer, backwards) in enumerate(layers):
        own = tuple([None if state is None else state[k] for state in states])
        result = layer._forward(x, own, None, False, None, lengths=sequence_lens, reverse=backwards)
        outputs.append(result.h)
        last.append(result.state)
    y = np.stack([np.moveaxis(h, 0, batch) for h in outputs], axis=2 if is_batch_major else 1)
    results = (y, *(np.stack(state, axis=1 - batch) for state in zip(*last, strict=True)))
    return tuple([result.astype(dtype, copy=False) for result in results])


def load(source: Any) -> Model:
    """Load an ONNX model to run it as a whole.

    Parameters
    ----------
    source : path-like or onnx.ModelProto
        The model. Recurrent nodes are RNN, LSTM and GRU, with constant weights; what lies between them is what
        exporters of PyTorch and Keras write for dense layers, activations and changes of shape. Recurrent nodes of half
        precision are computed in float32.

    Returns
    -------
    model : Model
        To be called with arrays, or to `run` with a dict of them.

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed, which is the extra `onnx`.
    ValueError
        If the model has nodes that cannot run here, or needs what is not in it; the message names them.

    See Also
    --------
    rnnkernels.convert.from_onnx : Makes a layer of one node.

    Notes
    -----
    Operators: Add, Cast, Concat, Constant, ConstantOfShape, Div, Expand, Flatten, Gather, Gemm, GRU, Identity,
    LogSoftmax, LSTM, MatMul, Mul, Relu, Reshape, RNN, Shape, Sigmoid, Slice, Softmax, Squeeze, Sub, Tanh, Transpose,
    Unsqueeze.

    Examples
    --------
    >>> import rnnkernels.onnx
    >>> model = rnnkernels.onnx.load("model.onnx")  # doctest: +SKIP
    >>> y = model(x)  # doctest: +SKIP
    """
    return Model(_graph.read(source))

"""Graphs of ONNX models: nodes, what is constant, and NumPy functions for the operators around recurrent layers."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rnnkernels._checks.formats import check_found, check_known
from rnnkernels._checks.settings import import_extra
from rnnkernels.activations import sigmoid

RECURRENT = ("RNN", "LSTM", "GRU")


class Node(NamedTuple):
    """A node of a graph."""

    op: str
    """With the domain before it, if that is not the one of ONNX."""
    name: str
    inputs: tuple[str, ...]
    """Names of values, "" for an optional input that is not there."""
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    """Numbers, strings, arrays and dtypes."""

    def __str__(self) -> str:
        if self.name:
            return f"the {self.op} node {self.name!r}"
        return f"the {self.op} node with the output {next(filter(None, self.outputs), '')!r}"


class Value(NamedTuple):
    """An input of a graph."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...] | None
    """Lengths, or names of those that may be any; None if it is not known."""


class Graph(NamedTuple):
    """What `read` finds."""

    nodes: list[Node]
    """In an order in which they can run, without those whose results are constant."""
    constants: dict[str, np.ndarray]
    """Initializers, and what follows from them alone."""
    inputs: list[Value]
    outputs: list[str]
    opset: int


def read(source: Any) -> Graph:
    """Read a model and compute what is constant in it.

    Parameters
    ----------
    source : path-like or onnx.ModelProto
        The model.

    Returns
    -------
    graph : Graph
        Nodes of any kind; `operation` knows which of them can run.

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not installed.
    ValueError
        If there is no output, as in an empty file.
    """
    onnx = import_extra("onnx", "onnx")
    model = source if hasattr(source, "graph") else onnx.load(source)
    whole = ["an output at least"]
    check_found("the model", whole, whole * len(model.graph.output), " Is `source` a whole ONNX file?")
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []
    for proto in model.graph.node:
        domain = "" if proto.domain in ("", "ai.onnx") else f"{proto.domain}."
        attributes = {entry.name: _attribute(onnx, entry) for entry in proto.attribute}
        node = Node(f"{domain}{proto.op_type}", proto.name, tuple(proto.input), tuple(proto.output), attributes)
        given = [constants.get(name) for name in node.inputs]
        fits = node.op in OPERATORS and set(attributes) <= set(_keywords(OPERATORS[node.op]))
        if fits and all(name in constants or not name for name in node.inputs):
            constants[node.outputs[0]] = operation(node, opset)(*given)
        else:
            nodes.append(node)
    inputs = [_value(onnx, proto) for proto in model.graph.input if proto.name not in constants]
    return Graph(nodes, constants, inputs, [proto.name for proto in model.graph.output], opset)


def _attribute(onnx: Any, entry: Any) -> Any:
    value = onnx.helper.get_attribute_value(entry)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if entry.type == onnx.AttributeProto.STRINGS:
        return [text.decode() for text in value]
    if entry.name == "to":  # of Cast
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value))
    return list(value) if isinstance(value, Sequence) else value


def _value(onnx: Any, proto: Any) -> Value:
    tensor = proto.type.tensor_type
    shape = tuple(
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "any" for axis in tensor.shape.dim
    )
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return Value(proto.name, dtype, shape if tensor.HasField("shape") else None)


def operation(node: Node, opset: int) -> Callable[..., np.ndarray]:
    """Return the function of a node, which takes its inputs, for an operator of `OPERATORS`.

    Raises
    ------
    ValueError
        If the node has an attribute that the function does not know.
    """
    newer, older = OPERATORS[node.op], OLDER_OPERATORS.get(node.op, (0, None))
    function = older[1] if opset < older[0] and older[1] is not None else newer
    check_known(f"the attributes of {node}", node.attributes, _keywords(function))
    return partial(function, **node.attributes)


def _keywords(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def _add(a: Any, b: Any) -> Any:
    return a + b


def _subtract(a: Any, b: Any) -> Any:
    return a - b


def _multiply(a: Any, b: Any) -> Any:
    return a * b


def _divide(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f":
        return a / b
    return a // b + ((a % b != 0) & ((a < 0) != (b < 0)))  # integers are rounded to zero


def _matmul(a: Any, b: Any) -> Any:
    return a @ b


def _gemm(
    a: Any, b: Any, c: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Any:
    product = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + beta * c


def _sigmoid(x: Any) -> Any:
    return sigmoid(x.astype(np.result_type(x.dtype, np.float32), copy=False)).astype(x.dtype, copy=False)


def _tanh(x: Any) -> Any:
    return np.tanh(x)


def _relu(x: Any) -> Any:
    return np.maximum(x, 0)


def _softmax(x: Any, *, axis: int = -1) -> Any:
    if not x.size:
        return x
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _softmax_of_all_that_follows(x: Any, *, axis: int = 1) -> Any:
    return _softmax(_flatten(x, axis=axis)).reshape(x.shape)


def _log_softmax(x: Any, *, axis: int = -1) -> Any:
    if not x.size:
        return x
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def _log_softmax_of_all_that_follows(x: Any, *, axis: int = 1) -> Any:
    return _log_softmax(_flatten(x, axis=axis)).reshape(x.shape)


def _identity(x: Any) -> Any:
    return x


def _transpose(x: Any, *, perm: Any = None) -> Any:
    return x.transpose(perm)


def _squeeze(x: Any, given: Any = None, *, axes: Any = None) -> Any:
    axes = given if axes is None else axes
    return np.squeeze(x, None if axes is None else tuple(axes))


def _unsqueeze(x: Any, given: Any = None, *, axes: Any = None) -> Any:
    return np.expand_dims(x, tuple(given if axes is None else axes))


def _reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    if not allowzero:
        shape = [x.shape[k] if length == 0 else length for k, length in enumerate(shape)]
    return x.reshape(tuple(shape))


def _flatten(x: Any, *, axis: int = 1) -> Any:
    axis = axis if axis >= 0 else axis + x.ndim
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _concat(*arrays: Any, axis: int) -> Any:
    return np.concatenate(arrays, axis)


def _slice(
    x: Any,
    given_starts: Any = None,
    given_ends: Any = None,
    given_axes: Any = None,
    steps: Any = None,
    *,
    starts: Any = None,
    ends: Any = None,
    axes: Any = None,
) -> Any:
    if starts is None:
        starts, ends, axes = given_starts, given_ends, given_axes
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cut = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # A start before the first element is the first, also backwards; an end there is none for Python.
        first = -x.shape[axis]
        cut[axis] = slice(max(int(start), first), None if step < 0 and end < first else int(end), int(step))
    return x[tuple(cut)]


def _gather(x: Any, indices: Any, *, axis: int = 0) -> Any:
    return np.take(x, indices, axis)


def _shape(x: Any, *, start: int = 0, end: int | None = None) -> Any:
    return np.array(x.shape[start:end], np.int64)


def _expand(x: Any, shape: Any) -> Any:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape)))


def _cast(x: Any, *, to: np.dtype, saturate: int = 1) -> Any:  # which says something of 8-bit floats only
    return x.astype(to, copy=False)


def _constant(
    *,
    value: Any = None,
    value_float: Any = None,
    value_floats: Any = None,
    value_int: Any = None,
    value_ints: Any = None,
) -> Any:
    if value is not None:
        return value
    floats = value_floats if value_float is None else value_float
    if floats is not None:
        return np.array(floats, np.float32)
    return np.array(value_ints if value_int is None else value_int, np.int64)


def _constant_of_shape(shape: Any, *, value: Any = None) -> Any:
    value = np.zeros(1, np.float32) if value is None else value
    return np.full(tuple(shape), value[0], value.dtype)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": _add,
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "Identity": _identity,
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "Mul": _multiply,
    "Relu": _relu,
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _subtract,
    "Tanh": _tanh,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Functions of the inputs of a node, None for one that is not there; its attributes are keyword arguments."""

OLDER_OPERATORS: dict[str, tuple[int, Callable[..., Any]]] = {
    "LogSoftmax": (13, _log_softmax_of_all_that_follows),
    "Softmax": (13, _softmax_of_all_that_follows),
}
"""Those that meant something else before a version of the operator set."""

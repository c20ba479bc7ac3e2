"""Checks of weights, layers and models that come from elsewhere or go there, and of their files."""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from rnnkernels._checks.arrays import FLOAT32, FLOAT64, as_array, check_axes, check_shape


def refuse_file(path: Any, reason: object, kind: str = "that a layer of this class has saved") -> NoReturn:
    """Say why a file cannot be loaded.

    Raises
    ------
    ValueError
        Always.
    """
    raise ValueError(f"`path` must name a safetensors file {kind}; {path}: {reason}")


CONVERTIBLE: dict[str, dict[str, tuple[Any, ...]]] = {
    "torch": {"mode": ("LSTM", "GRU", "RNN_TANH", "RNN_RELU"), "nonlinearity": ("tanh", "relu")},
    "keras": {
        "recurrent_activation": ("sigmoid",),
        "go_backwards": (False,),
        "merge_mode": ("concat",),
    },
    "onnx": {
        "activation_alpha": ([],),
        "activation_beta": ([],),
        "input_forget": (0, 1),
    },
}
"""What attributes of recurrent layers from elsewhere may be, of those that change what a layer computes."""


def check_convertible(source: str, owner: str, attributes: Mapping[str, Any], **more: tuple[Any, ...]) -> None:
    """Reject a layer from elsewhere that computes what no cell here does; attributes that it does not have are fine.

    What an attribute may be that depends on the kind of layer comes in `more`.

    Raises
    ------
    ValueError
        If an attribute has a value that is not in `CONVERTIBLE` or `more`; the message names it.
    """
    for name, allowed in {**CONVERTIBLE[source], **more}.items():
        if name in attributes and attributes[name] not in allowed:
            raise ValueError(
                f"`{name}` of {owner} must be {' or '.join(map(repr, allowed))}, since no cell of this package computes"
                f" anything else; got {attributes[name]!r}."
            )


def check_no_projection(owner: str, names: Iterable[str]) -> None:
    """Reject weights with a projection where others have no place for it.

    Raises
    ------
    ValueError
        If there is one; the message names it.
    """
    for name in names:
        if name.startswith("projection"):
            raise ValueError(f"`{name}` must not be there: no LSTM of {owner} projects its hidden state.")


def check_plain_cell(owner: str, has_more: bool) -> None:
    """Reject a layer with peepholes, coupled gates or a clip where others have no place for them.

    Raises
    ------
    ValueError
        If it is one.
    """
    if has_more:
        raise ValueError(f"The {owner} must have neither peepholes nor coupled gates nor a clip to be converted.")


def check_kind(owner: str, kind: str, known: Iterable[str]) -> str:
    """Return the name of a class or operator from elsewhere.

    Raises
    ------
    ValueError
        If it is not one of those that are known.
    """
    if kind not in known:
        raise ValueError(f"{owner} must be one of {', '.join(known)}; got {kind}.")
    return kind


def check_gates(name: str, Wh: np.ndarray, counts: Iterable[int]) -> int:
    """Return how many gates weights (H, GH) of a hidden state have, which tells the cell.

    Raises
    ------
    ValueError
        If the shape is another one.
    """
    if Wh.ndim == 2 and Wh.size > 0 and Wh.shape[1] in [len(Wh) * count for count in counts]:
        return Wh.shape[1] // len(Wh)
    raise ValueError(
        f"`{name}` must have shape (H, GH), where G is {' or '.join(map(str, counts))}, the number of gates; got"
        f" {Wh.shape}."
    )


def check_found(owner: str, names: Iterable[str], found: Iterable[str], cure: str = "") -> None:
    """Reject what lacks some of its parts.

    Raises
    ------
    ValueError
        If one of `names` is not among `found`; with `cure`.
    """
    found = list(found)
    missing = [name for name in names if name not in found]
    if missing:
        has = ", ".join(found[:12]) + (", ..." if len(found) > 12 else "") if found else "nothing"
        raise ValueError(f"{owner} must have {', '.join(missing)}; it has {has}.{cure}")


def check_known(owner: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Reject names that nobody knows.

    Raises
    ------
    ValueError
        If one of `names` is not among `known`.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{owner} must be of {', '.join(known) or 'nothing'}; got `{name}`.")


def check_number(owner: str, count: int, allowed: Iterable[int], cure: str) -> None:
    """Reject a number of things that is not one of those allowed.

    Raises
    ------
    ValueError
        If it is not; with `cure`.
    """
    if count not in allowed:
        raise ValueError(f"{owner} must be {' or '.join(map(str, allowed))}; got {count}. {cure}")


def check_same(name: str, value: Any, wanted: Any) -> None:
    """Reject an argument that says something else than the layer it comes with; None says nothing.

    Raises
    ------
    ValueError
        If it does.
    """
    if value is not None and value != wanted:
        raise ValueError(f"`{name}` must be {wanted!r}, as it is of the layer; got {value!r}.")


def check_alike(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Reject parts of one layer, by name, whose options differ.

    Raises
    ------
    ValueError
        If they do; the message says which option, and what each part has.
    """
    for name, wanted in next(iter(parts.values()), {}).items():
        values = {part: options.get(name) for part, options in parts.items()}
        if any(value != wanted for value in values.values()):
            got = ", ".join(f"{value!r} of {part}" for part, value in values.items())
            raise ValueError(
                f"`{name}` must be the same of all that becomes one layer; got {got}. Take the weights of each by"
                " itself, with `convert.from_keras_weights`."
            )


def check_forward(owner: str, is_backward: bool) -> None:
    """Reject a node of ONNX that goes backwards where a layer is made of it.

    Raises
    ------
    ValueError
        If it does.
    """
    if is_backward:
        raise ValueError(
            f"`direction` of {owner} must be 'forward' or 'bidirectional'; got 'reverse': the node runs backwards,"
            " which a layer alone does not. `rnnkernels.onnx.load` runs the model."
        )


def check_reset_after(owner: str, reset_after: bool) -> None:
    """Reject a GRU whose reset gate acts before the product where there is no such thing.

    Raises
    ------
    ValueError
        If it does.
    """
    if not reset_after:
        raise ValueError(f"`reset_after` must be True: {owner} has no GRU whose reset gate acts before the product.")


def check_array(name: str, value: Any, axes: int | tuple[int, ...]) -> np.ndarray:
    """Return weights from elsewhere as an array: a tensor, an array, or a list, also of half precision.

    Raises
    ------
    TypeError
        If it is not of floating-point numbers.
    ValueError
        If it has another number of axes.
    """
    if hasattr(value, "detach"):  # a tensor of PyTorch
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    array = np.asarray(value)
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype(FLOAT32)
    if array.dtype not in (FLOAT32, FLOAT64):
        raise TypeError(f"`{name}` must be of floating-point numbers; got {array.dtype}.")
    wanted = (axes,) if isinstance(axes, int) else axes
    if array.ndim not in wanted:
        raise ValueError(f"`{name}` must have {' or '.join(map(str, wanted))} axes; got shape {array.shape}.")
    return array


def check_operators(nodes: Iterable[Any]) -> None:
    """Reject nodes of an ONNX model, if there are any.

    Raises
    ------
    ValueError
        With their names.
    """
    listed = [str(node) for node in nodes]
    if listed:
        more = f", and {len(listed) - 8} more" if len(listed) > 8 else ""
        raise ValueError(
            f"the model has nodes that cannot run here: {', '.join(listed[:8])}{more}. `help(rnnkernels.onnx.load)`"
            " lists what can; `rnnkernels.convert.from_onnx` takes a recurrent node out of any model."
        )


def check_made(owner: str, names: Iterable[str], made: Iterable[str]) -> None:
    """Reject values of an ONNX model that nothing gives.

    Raises
    ------
    ValueError
        If one of `names` is not among `made`.
    """
    for name in names:
        if name not in made:
            raise ValueError(
                f"{owner} must come from inputs, initializers and nodes before; `{name}` does not. A sparse initializer"
                " cannot be read here: store it as a dense one."
            )


def check_model_input(name: str, value: Any, dtype: np.dtype, shape: tuple[int | str, ...] | None) -> np.ndarray:
    """Bring an input of a model to its dtype; strings and None in `shape` fit anything.

    Raises
    ------
    TypeError, ValueError
        If its dtype or shape does not fit.
    """
    array = as_array(name, value)
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise TypeError(f"`{name}` must be of {dtype}; got {array.dtype}.")
    if shape is not None:
        check_axes(name, array, f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})")
        symbols = f"({', '.join(map(str, shape))})"
        wanted = tuple(came if isinstance(axis, str) else axis for axis, came in zip(shape, array.shape, strict=True))
        check_shape(name, array, symbols, wanted, "the model")
    return array.astype(dtype, copy=False)

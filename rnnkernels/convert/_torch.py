"""Weights of PyTorch: modules, state dicts, and files of them."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnkernels._checks.formats import (
    check_array,
    check_convertible,
    check_found,
    check_kind,
    check_reset_after,
    refuse_file,
)
from rnnkernels._checks.settings import import_extra
from rnnkernels.convert._form import (
    Weights,
    arranged,
    both,
    direction,
    directions,
    make_layer,
    source_of,
    stack,
    unstack,
)
from rnnkernels.layers import Layer

GATES = {"rnn": "h", "gru": "rzn", "lstm": "ifgo"}
NAME = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(\d+)(_reverse)?)?")
MODULES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


def from_torch_state(state: Mapping[str, Any], *, prefix: str = "") -> Weights:
    """Take the weights of an RNN, LSTM or GRU from a state dict of PyTorch.

    Parameters
    ----------
    state : mapping of str to tensor or array_like
        As from ``module.state_dict()``: all layers and directions, of a module for sequences or of a cell for steps.
    prefix : str, default ""
        What stands before `weight_ih_l0` and the like, such as "encoder.lstm."; other names are left alone.

    Returns
    -------
    parameters : dict of ndarray
        Weights under the names of this package; biases that are missing are zero.

    Raises
    ------
    TypeError
        If a tensor is not of floating-point numbers.
    ValueError
        If weights are missing or do not fit.

    See Also
    --------
    to_torch_state : The inverse.

    Notes
    -----
    The gates tell the cell. A vanilla RNN is taken for one with tanh: a state dict does not say. `weight_hr` of an LSTM
    with `proj_size` is the transpose of `projection`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import LSTM, convert
    >>> state = {"lstm.weight_ih_l0": np.ones((8, 3)), "lstm.weight_hh_l0": np.ones((8, 2))}
    >>> LSTM(**convert.from_torch_state(state, prefix="lstm."))
    LSTM(D=3, H=2, dtype=float64)
    """
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for name, value in state.items():
        match = NAME.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match:
            part, k, reverse = match.groups()
            found.setdefault((int(k or 0), reverse or ""), {})[part] = value
    prefixes = sorted({name[: match.start()] for name in state if (match := re.search(r"weight_hh(_l0)?$", name))})
    cure = f" Pass `prefix`, one of {', '.join(map(repr, prefixes))}." if prefixes and prefix not in prefixes else ""
    count = 1 + max((k for k, _ in found), default=0)
    ways = ("", "_reverse") if any(reverse for _, reverse in found) else ("",)
    layers = []
    for k in range(count):
        parts = []
        for way in ways:
            weights = found.get((k, way), {})
            check_found(f"layer {k}{way} of `state`", ["weight_ih", "weight_hh"], weights, cure)
            parts.append(_direction(weights))
        layers.append(both(*parts))
    return stack(*layers)


def _direction(weights: Mapping[str, Any]) -> Weights:
    Wx, Wh = (check_array(name, weights[name], 2).T for name in ("weight_ih", "weight_hh"))
    b, bh = (check_array(name, weights[name], 1) if name in weights else None for name in ("bias_ih", "bias_hh"))
    projection = check_array("weight_hr", weights["weight_hr"], 2).T if "weight_hr" in weights else None
    return direction(GATES, ("weight_hh.T", "bias_ih", "bias_hh"), Wx, Wh, b, bh, projection)


def to_torch_state(parameters: Any, *, prefix: str = "") -> dict[str, np.ndarray]:
    """Name weights as a state dict of PyTorch does.

    Parameters
    ----------
    parameters : layer or dict of array_like
        A layer, or weights of layers and directions under the names of this package.
    prefix : str, default ""
        What the names begin with.

    Returns
    -------
    state : dict of ndarray
        For ``module.load_state_dict``, after ``torch.from_numpy`` of each array. There are always two biases; the
        second one is zero where this package has only one.

    Raises
    ------
    TypeError, ValueError
        If a name, a dtype or a shape does not fit, or the layer is a GRU whose reset gate acts before the product.

    See Also
    --------
    from_torch_state : The inverse.

    Examples
    --------
    >>> from rnnkernels import GRU, convert
    >>> {name: array.shape for name, array in convert.to_torch_state(GRU.create(3, 2)).items()}
    {'weight_ih_l0': (6, 3), 'weight_hh_l0': (6, 2), 'bias_ih_l0': (6,), 'bias_hh_l0': (6,)}
    """
    parameters, reset_after = source_of(parameters)
    check_reset_after("PyTorch", reset_after)
    state = {}
    for k, layer in enumerate(unstack(parameters)):
        for way, weights in zip(("", "_reverse"), directions(layer), strict=False):
            _, arrays = arranged(weights, GATES)
            for name, array in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), arrays, strict=True):
                state[f"{prefix}{name}_l{k}{way}"] = np.ascontiguousarray(array.T)
            if "projection" in weights:
                state[f"{prefix}weight_hr_l{k}{way}"] = np.ascontiguousarray(weights["projection"].T)
    return state


def from_torch(source: Any, *, prefix: str = "") -> Layer:
    """Make a layer of a module of PyTorch, or of a state dict.

    Parameters
    ----------
    source : torch.nn.Module or mapping of str to tensor
        An `RNN`, `LSTM`, `GRU` or a cell for steps; a module that has one; or a state dict.
    prefix : str, default ""
        Where it is in a larger module or state dict, such as "encoder.lstm.".

    Returns
    -------
    layer : RNN, LSTM or GRU
        With copies of the weights. Arrays are batch-major here, whatever `batch_first` says; dropout is left behind.

    Raises
    ------
    TypeError
        If a tensor is not of floating-point numbers.
    ValueError
        If it is something else.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import convert
    >>> convert.from_torch({"weight_ih": np.ones((6, 3)), "weight_hh": np.ones((6, 2))})  # of a GRUCell
    GRU(D=3, H=2, dtype=float64)
    """
    if not hasattr(source, "state_dict"):
        return make_layer(from_torch_state(source, prefix=prefix))
    module = source.get_submodule(prefix.rstrip("."))
    if not hasattr(module, "mode"):
        names = [kind.__name__ for kind in type(module).__mro__]
        check_kind("the module", next((name for name in names if name in MODULES), names[0]), MODULES)
    attributes = {name: getattr(module, name) for name in ("mode", "nonlinearity") if hasattr(module, name)}
    check_convertible("torch", type(module).__name__, attributes)
    is_relu = attributes.get("mode") == "RNN_RELU" or attributes.get("nonlinearity") == "relu"
    return make_layer(from_torch_state(module.state_dict()), **({"activation": "relu"} if is_relu else {}))


def from_safetensors(path: Any, *, prefix: str = "") -> Layer:
    """Make a layer of a safetensors file with the names of PyTorch.

    Parameters
    ----------
    path : path-like
        The file; only the tensors of the layer are read.
    prefix : str, default ""
        What stands before `weight_ih_l0` and the like, such as "encoder.lstm.".

    Returns
    -------
    layer : RNN, LSTM or GRU
        With the weights of the file.

    Raises
    ------
    ModuleNotFoundError
        If the package safetensors is not installed, which is the extra `safetensors`.
    ValueError
        If it is no safetensors file, or as `from_torch_state`.

    Examples
    --------
    >>> from rnnkernels import convert
    >>> layer = convert.from_safetensors("model.safetensors", prefix="lstm.")  # doctest: +SKIP
    """
    safetensors = import_extra("safetensors", "safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            mine = {name for name in names if name.startswith(prefix) and NAME.fullmatch(name.removeprefix(prefix))}
            # Of the others only the names matter, for the message that asks for a prefix.
            state = {name: file.get_tensor(name) if name in mine else None for name in names}
    except safetensors.SafetensorError as error:
        refuse_file(path, error, "with the names of PyTorch")
    return make_layer(from_torch_state(state, prefix=prefix))

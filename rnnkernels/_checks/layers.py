"""Checks of layer objects: sizes, parameters by name, dropout, and what needs a layer of one direction."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnkernels._checks.arrays import check_axes, check_given_float, check_given_floats, check_shape
from rnnkernels._checks.cells import hidden_units
from rnnkernels._checks.settings import check_count, check_float_dtype
from rnnkernels.kernels.cell import Cell


def check_layer_sizes(D: Any, H: Any, dtype: Any) -> tuple[int, int, np.dtype]:
    """Check the sizes and the dtype of a layer that is to be made; raises as `check_count` and `check_float_dtype`."""
    return check_count("D", D, 0), check_count("H", H), check_float_dtype("dtype", dtype)


def check_replacements(parameters: dict[str, np.ndarray], given: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """Return parameters with those that are given, in a dtype, in the place of the old ones.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, or an argument is neither of float32 or float64 nor of integers.
    """
    for name in given:
        if name not in parameters:
            raise ValueError(f"`{name}` is no parameter of this layer; it has {', '.join(parameters)}.")
    new = {name: check_given_float(name, array).astype(dtype, copy=False) for name, array in given.items()}
    return {**parameters, **new}


def suffixes(layers: int, directions: int) -> list[str]:
    """What the names of the parameters of each layer and direction end with."""
    numbers = [f"_l{layer}" for layer in range(layers)] if layers > 1 else [""]
    return [number + end for number in numbers for end in ("", "_reverse")[:directions]]


def check_parameters(cell: Cell, parameters: Any) -> tuple[list[dict[str, Any]], int]:
    """Sort parameters by layer and direction; returns Wx, Wh and the biases of each, and the number of directions.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown or missing, or a dtype or a shape does not fit.
    """
    if not isinstance(parameters, Mapping):
        raise TypeError(f"`parameters` must be a dict of arrays by name; got {type(parameters).__name__}.")
    names = "Wx", "Wh", *cell.biases
    rule = f"{', '.join(names)}, then _l0, _l1, ... where there are more layers, then _reverse in the second direction"
    pattern = re.compile(rf"({'|'.join(names)})(?:_l(0|[1-9][0-9]*))?(_reverse)?")
    found = [pattern.fullmatch(name) if isinstance(name, str) else None for name in parameters]
    for name, match in zip(parameters, found, strict=True):
        if match is None:
            raise ValueError(f"`{name}` in `parameters` is no name of a parameter: these are {rule}.")
    layers = len({match[2] for match in found if match and match[2]}) or 1
    directions = 2 if any(match and match[3] for match in found) else 1
    ends = suffixes(layers, directions)
    needed = [*names[:3], *(["projection"] if cell.projected else [])]
    for name in [name + end for end in ends for name in needed]:
        if name not in parameters:
            raise ValueError(f"`parameters` lacks `{name}`: it has {', '.join(parameters)}. The names are {rule}.")
    for name in parameters:
        if not any(name == plain + end for end in ends for plain in names):
            raise ValueError(f"`{name}` in `parameters` is of another layer than the others. The names are {rule}.")
    others = [bias + end for bias in cell.biases[1 : cell.bias_count] for end in ends]
    given = {name: array for name, array in parameters.items() if array is not None or name not in others}
    given = dict(zip(given, check_given_floats(" ".join(given), *given.values()), strict=True))
    columns = cell.columns
    for name, array in given.items():
        letter = "D" if name.startswith("Wx") else cell.h_symbol
        of_bias = f"({len(cell.gates) - 1}, H)" if name.startswith("peepholes") else f"({columns},)"
        if name.startswith("projection"):
            of_bias = "(H, P)"
        check_axes(name, array, f"({letter}, {columns})" if name.startswith("W") else of_bias)
    b = given[f"b{ends[0]}"]
    H, source = hidden_units(cell, f"b{ends[0]}", b), f"`b{ends[0]}`"
    parts, P, symbol = [], H, cell.h_symbol
    if cell.projected:
        P = given[f"projection{ends[0]}"].shape[1]
        source += f" and `projection{ends[0]}`"
    for k, end in enumerate(ends):
        depth, letter = (given[f"Wx{ends[0]}"].shape[0], "D") if k < directions else (directions * P, symbol)
        letter = f"2{symbol}" if k >= directions == 2 else letter
        check_shape(f"Wx{end}", given[f"Wx{end}"], f"({letter}, {columns})", (depth, b.size), source)
        check_shape(f"Wh{end}", given[f"Wh{end}"], f"({symbol}, {columns})", (P, b.size), source)
        biases = {name: given.get(name + end) for name in cell.biases}
        for name, bias in biases.items():
            if bias is not None and name == "peepholes":
                check_shape(name + end, bias, f"({len(cell.gates) - 1}, H)", (len(cell.gates) - 1, H), source)
            elif bias is not None and name == "projection":
                check_shape(name + end, bias, "(H, P)", (H, P), source)
            elif bias is not None:
                check_shape(name + end, bias, f"({columns},)", b.shape, source)
        parts.append({"Wx": given[f"Wx{end}"], "Wh": given[f"Wh{end}"], **biases})
    return parts, directions


def check_dropout(dropout: Any, layers: int) -> float:
    """Return the probability of dropping an output.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is not in 0 <= dropout < 1, or there is nothing to drop.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, int | float | np.integer | np.floating):
        raise TypeError(f"`dropout` must be a number; got {type(dropout).__name__}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be in 0 <= dropout < 1, a probability; got {dropout}.")
    if dropout > 0 and layers == 1:
        raise ValueError("`dropout` acts between layers, so it must be 0 with num_layers = 1.")
    return float(dropout)


def check_rng(rng: Any) -> None:
    """Reject what is not a generator of random numbers, or None.

    Raises
    ------
    TypeError
        If it is not.
    """
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"`rng` must be a numpy.random.Generator, as numpy.random.default_rng makes; got {type(rng).__name__}."
        )


def check_one_direction(directions: int, what: str) -> None:
    """Reject layers that run backward, too, for what takes steps as they come.

    Raises
    ------
    ValueError
        If there are two directions.
    """
    if directions == 2:
        raise ValueError(
            f"`{what}` needs a layer of one direction: the second direction of a bidirectional one begins at the last "
            "step, which is not there yet. Call `forward` with whole sequences, or make it with bidirectional=False."
        )

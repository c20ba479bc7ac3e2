"""Layers in safetensors files: parameters by name, and in the metadata what else makes the layer."""

import json
import os
import tempfile
from typing import Any

import numpy as np

from rnnkernels._checks.formats import refuse_file
from rnnkernels._checks.settings import import_extra

KEY = "rnnkernels"
"""Of the metadata."""


def write(path: Any, parameters: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write a file; at every moment there is either the old one or the new one, complete."""
    save_file = import_extra("safetensors.numpy", "safetensors").save_file
    target = os.path.realpath(os.fspath(path))
    with tempfile.TemporaryDirectory(prefix=".rnnkernels-", dir=os.path.dirname(target)) as folder:
        partial = os.path.join(folder, os.path.basename(target))
        save_file(parameters, partial, {KEY: json.dumps(facts)})
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)


def read(path: Any, cell: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of a layer of this cell; one from elsewhere, without facts, may have parameters of these names."""
    safetensors = import_extra("safetensors", "safetensors")
    facts: Any = {}
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            facts = json.loads((file.metadata() or {}).get(KEY, "{}"))
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        refuse_file(path, error)
    if not isinstance(facts, dict):
        refuse_file(path, "its metadata are not those of a layer")
    found = facts.pop("cell", cell)
    if found != cell:
        refuse_file(path, f"it is of the cell {found!r}, not {cell!r}")
    return parameters, facts

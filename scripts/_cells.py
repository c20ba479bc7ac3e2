"""The recurrent cells that the scripts know: whatever differs from cell to cell stands in this table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Cell:
    """What the functions of a cell take and return, beyond the names that all cells share."""

    name: str
    """Prefix of the functions, and in capitals of the classes."""
    title: str
    gates: str
    """A letter for each block of columns of the weights; g and n are the candidates, h is all that a plain RNN has."""
    states: tuple[str, ...] = ("h",)
    """What a step carries to the next one; the first one is the output."""
    biases: tuple[str, ...] = ("b",)
    """All but the first one are keyword arguments."""
    open_gates: str = ""
    """Gates that should begin open, so that the cell remembers until it learns to forget."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of all weights, in the order of the arguments."""
        return "Wx", "Wh", *self.biases

    @property
    def gradients(self) -> tuple[str, ...]:
        """Names of what the backward pass over a sequence computes."""
        return "dx", "dh0", *(f"d{name}" for name in self.weights)

    @property
    def class_name(self) -> str:
        """Of the layer here and in PyTorch; the stream's and the step module's begin with it."""
        return self.name.upper()

    def parameters(self, layers: int) -> list[list[str]]:
        """Names of the weights of each layer of a stack."""
        ends = [f"_l{layer}" for layer in range(layers)] if layers > 1 else [""]
        return [[name + end for name in self.weights] for end in ends]

    def layer(self, functions: Any) -> Any:
        """Class of the layer."""
        return getattr(functions, self.class_name)

    def function(self, functions: Any, scope: str) -> Any:
        """One of rnnkernels or its reference: ``forward``, ``step_backward`` and so on."""
        return getattr(functions, f"{self.name}_{scope}")

    def options(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The weights that are keyword arguments."""
        return {name: weights[name] for name in self.biases[1:]}

    def weight_gradients(self, gradients: Any) -> list[np.ndarray]:
        """Gradients of all weights out of what a backward function has returned."""
        return [*gradients[-3:], *(getattr(gradients, f"d{name}") for name in self.biases[1:])]


CELLS = {
    cell.name: cell
    for cell in (
        Cell("lstm", "LSTM", "ifog", states=("h", "c"), open_gates="f"),
        Cell("rnn", "vanilla RNN", "h"),
        Cell("gru", "GRU", "rzn", biases=("b", "bh"), open_gates="z"),
    )
}


def available_cells(functions: Any) -> dict[str, Cell]:
    """Cells that a build of rnnkernels has."""
    return {name: cell for name, cell in CELLS.items() if hasattr(functions, f"{name}_forward")}

"""What a cell is to the rest of the package: a description, and three kernels."""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, types

from rnnkernels.kernels.jit import COMPILER_IS_OFF, machine_code


class Cell(NamedTuple):
    """A recurrent cell; sums, caches, checks, plans, costs and messages follow from it."""

    name: str
    """Of its functions, as in `<name>_forward`."""
    gates: tuple[str, ...]
    """Blocks of columns of Wx, Wh and biases, in this order."""
    biases: tuple[str, ...]
    """Arguments that are biases; with a second one, the products h @ Wh start from it and are kept apart from z."""
    states: tuple[str, ...]
    """What is carried from step to step; the first is the output, h."""
    tracked: str
    """The state that is kept of each step."""
    tape: tuple[str, ...]
    """What else is kept of each step, a vector of each unit each."""
    cure_of_pytorch: str
    """What else to do with a weight of PyTorch, besides taking its transpose."""
    sigmoids: int
    tanhs: int
    """Activations of a unit in a forward step."""
    backward_tanhs: int
    """The same in a backward step."""
    forward: Any
    backward: Any
    stream: Any
    """Kernels: those of `passes` with the row functions of the cell."""
    late: int = 0
    """Of its last gates so many multiply what the others have made of h, see `passes`."""
    own: int = 0
    """Whether no product starts from the last bias, which is for the row functions: 0 or 1."""
    projected: int = 0
    """Whether the last of `biases` is no bias but a matrix (H, P) that makes h of what the units make: 0 or 1."""
    variant: str = ""
    """What it is beside the cell that is meant when nothing more is said."""
    options: tuple[tuple[str, Any], ...] = ()
    """Arguments of the functions of the cell that ask for it."""
    clip: float = math.inf
    """Largest magnitude of what goes into the activations of its gates; kernels have it as an argument."""

    @property
    def key(self) -> str:
        """Name in the registry."""
        return f"{self.name}_{self.variant}" if self.variant else self.name

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """First gate and number of gates that multiply a state at a time."""
        early = len(self.gates) - self.late
        return ((0, early), (early, self.late)) if self.late else ((0, early),)

    @property
    def bias_count(self) -> int:
        """Biases, without a projection."""
        return len(self.biases) - self.projected

    @property
    def h_symbol(self) -> str:
        """Columns of the hidden state: P of a projected cell."""
        return "P" if self.projected else "H"

    @property
    def columns(self) -> str:
        """Columns of its weights, in symbols: H, 4H."""
        return f"{len(self.gates)}H" if len(self.gates) > 1 else "H"

    def machine_code(self, direction: str, dtype: np.dtype) -> Any:
        """Of the kernel "forward", "backward" or "stream" for a dtype, ready to be called from Python.

        Arguments must have the types of the signatures below, though arrays that are only read may be read-only. Nobody
        looks at them to find out which code they need: that takes 0.2 us of a call, where a step can take 2 us.
        """
        key = self.key, direction, dtype
        code = _machine_code.get(key)
        if code is None:
            kernel = getattr(self, direction)
            if COMPILER_IS_OFF:
                return kernel
            arrays = self.bias_count + self.projected * (2 if direction == "backward" else 1)
            signature = SIGNATURES[direction](from_dtype(dtype), arrays)
            code = _machine_code[key] = machine_code(kernel, signature)
        return code


def _arrays(element: Any, *axes: int) -> tuple[Any, ...]:
    return tuple(types.Array(element, count, "C") for count in axes)


SCALARS = {"i": types.int64, "?": types.boolean, "d": types.float64}


def _scalars(kinds: str) -> tuple[Any, ...]:
    return tuple(SCALARS[kind] for kind in kinds)


SIGNATURES = {
    "forward": lambda element, biases: (
        *_arrays(element, 2, 2, 2, 2, 2),
        types.UniTuple(types.Array(element, 1, "C"), biases),
        *_arrays(element, 2, 2, 3, 3),
        *_arrays(types.int64, 2),
        *_arrays(element, 1),
        *_arrays(types.int64, 3, 1),
        *_scalars("ii?iiiii?d"),
    ),
    "backward": lambda element, biases: (
        *_arrays(element, 2, 2, 2, 2, 3, 3, 2, 2, 2, 2, 2, 2, 2),
        types.UniTuple(types.Array(element, 1, "C"), biases),
        *_arrays(types.int64, 2),
        *_arrays(element, 1),
        *_arrays(types.int64, 3, 1),
        *_scalars("ii?iiii??d"),
    ),
    "stream": lambda element, biases: (*_arrays(element, 2, 1, 1, 2), *_scalars("iii")),
}
"""Types of the arguments of kernels, for an element type and so many biases, or gradients of biases."""

cells: dict[str, Cell] = {}
"""All cells by key."""

_machine_code: dict[tuple[str, str, np.dtype], Any] = {}


def register(cell: Cell) -> Cell:
    """Make a cell known to whatever serves all cells."""
    cells[cell.key] = cell
    return cell

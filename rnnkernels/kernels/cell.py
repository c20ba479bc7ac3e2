"""What a cell is to the rest of the package: a description, and three kernels."""

from collections.abc import Callable
from typing import Any, NamedTuple


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
    sigmoids: int
    tanhs: int
    """Activations of a unit in a forward step."""
    backward_tanhs: int
    """The same in a backward step."""
    forward: Callable[..., None]
    backward: Callable[..., None]
    stream: Callable[..., None]
    """Kernels: `passes.forward_pass`, `backward_pass` and `stream_pass` with the row functions of the cell."""

    @property
    def columns(self) -> str:
        """Columns of its weights, in symbols: H, 4H."""
        return f"{len(self.gates)}H" if len(self.gates) > 1 else "H"


cells: dict[str, Cell] = {}


def register(cell: Cell) -> Cell:
    """Make a cell known to whatever serves all cells."""
    cells[cell.name] = cell
    return cell

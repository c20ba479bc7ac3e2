"""Passes of layers that follow one another, block of steps by block, on two threads.

A layer may begin a block when the layer before it has done the steps that the block reads. So two threads can be at
work though no layer can use more than one: each takes the next block of a layer that may begin. Every layer does its
blocks in order, one at a time, with its state in its own scratch, so that all results are those of layer after layer,
bit by bit.
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rnnkernels._threads import side_by_side


class Pass(NamedTuple):
    """A pass of a layer that was put off: its arrays are there, and are filled block by block."""

    run: Callable[[int, int], None]
    """Runs steps `begin .. end`, the next ones."""
    blocks: list[tuple[int, int]]
    """Begin and end of each."""
    ahead: int
    """Steps after a block that the layer before must have done, too, if there are so many."""

    def before(self, work: Callable[[int, int], None]) -> "Pass":
        """The same pass, each block of which ends with some more work on its steps."""

        def run(begin: int, end: int) -> None:
            self.run(begin, end)
            work(begin, end)

        return self._replace(run=run)


def run_passes(passes: Sequence[Pass]) -> None:
    """Run passes of which each reads what the one before it writes, on this thread and another one.

    An error or an interrupt of either ends both: what is running then ends with its block.
    """
    pipeline = _Pipeline(passes)
    side_by_side(pipeline.work, pipeline.work)


class _Pipeline:
    def __init__(self, passes: Sequence[Pass]) -> None:
        self._passes = passes
        self._next = [0] * len(passes)
        """Number of the next block of each pass."""
        self._steps = [0] * len(passes)
        """Steps that each has done."""
        self._is_busy = [False] * len(passes)
        self._change = threading.Condition()
        self._is_over = False

    def work(self) -> None:
        """Run blocks until all are done, by this thread or another one."""
        number = -1
        try:
            while (number := self._begin(number)) >= 0:
                begin, end = self._block(number)
                self._passes[number].run(begin, end)
                self._end(number, end - begin)
        finally:
            self._stop()

    def _begin(self, last: int) -> int:
        """Wait for a pass that may go on, and let it; -1 if all are done.

        That of the last block if only two are left, so that its weights stay in a near cache; or else the last one that
        may, since others wait for it least.
        """
        with self._change:
            while not self._is_over:
                left = [number for number in range(len(self._passes)) if not self._is_done(number)]
                if not left:
                    break
                ready = [number for number in left if not self._is_busy[number] and self._may_go_on(number)]
                if ready:
                    number = last if last in ready and len(left) <= 2 else ready[-1]
                    self._is_busy[number] = True
                    return number
                self._change.wait()
        return -1

    def _block(self, number: int) -> tuple[int, int]:
        return self._passes[number].blocks[self._next[number]]

    def _is_done(self, number: int) -> bool:
        return self._next[number] == len(self._passes[number].blocks)

    def _may_go_on(self, number: int) -> bool:
        if number == 0 or self._is_done(number - 1):
            return True
        begin, end = self._block(number)
        return self._steps[number - 1] >= self._steps[number] + end - begin + self._passes[number].ahead

    def _end(self, number: int, steps: int) -> None:
        with self._change:
            self._next[number] += 1
            self._steps[number] += steps
            self._is_busy[number] = False
            self._change.notify_all()

    def _stop(self) -> None:
        with self._change:
            self._is_over = True
            self._change.notify_all()

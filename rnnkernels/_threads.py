"""How many threads a call takes, and the threads themselves.

A small pool of Python threads runs kernels that have released the GIL; nothing of Numba's or a BLAS's own threading is
used. A call wakes them up when it starts, so that they are awake when it has packed its weights and leads them into the
kernel (see `rnnkernels.kernels.team`); they stay awake until it is over. While one call uses the pool, concurrent calls
run on their own thread alone, so that there are never more busy threads than asked for and callers.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rnnkernels._checks import check_num_threads
from rnnkernels._tuning import SEGMENT_FLOPS, THREAD_FLOPS
from rnnkernels.kernels import team as kernels


class _Run:
    """One kernel call of a team: its words, and, when the bell rings, the call of its members and the next run."""

    __slots__ = ("call", "next", "words")

    call: tuple[Callable[..., Any], tuple[Any, ...]]
    next: "_Run"

    def __init__(self, threads: int) -> None:
        self.words = np.zeros(kernels.BARRIERS + threads * kernels.WORDS, np.int64)


class _Pool:
    """Threads that wait for teams; they are started when first needed, and end with the process."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.runs: queue.SimpleQueue[_Run] = queue.SimpleQueue()
        self.count = 0

    def wake(self, run: _Run, times: int) -> None:
        """Ask `times` threads to listen for a run. Nothing waits for them."""
        with contextlib.suppress(RuntimeError):  # the system starts no more threads: those that there are will do
            while self.count < times:
                threading.Thread(target=self._work, name=f"rnnkernels-{self.count}", daemon=True).start()
                self.count += 1
        for _ in range(min(times, self.count)):
            self.runs.put(run)

    def _work(self) -> None:
        while True:
            run = self.runs.get()
            kernels.wake_up(run.words)
            while kernels.wait_for_bell(run.words):
                function, arguments = run.call
                run = run.next
                function(*arguments)
                del function, arguments
            del run  # a sleeping thread keeps no arrays alive


_pool = _Pool()


def _forget_threads() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):  # threads do not survive a fork, and a lock may have been held
    os.register_at_fork(after_in_child=_forget_threads)


def available_threads() -> int:
    """Processors that this process may use: those of its affinity, and at most its container's share."""
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        count = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(int(quota) // int(period), 1))
    return count


def _initial_threads() -> int:
    for variable in ("RNNKERNELS_NUM_THREADS", "OMP_NUM_THREADS"):
        with contextlib.suppress(ValueError):
            number = int(os.environ.get(variable, ""))
            if number >= 1:
                return min(number, available_threads())
    return available_threads()


_num_threads = _initial_threads()


def get_num_threads() -> int:
    """Return the number of threads that a call may use.

    Returns
    -------
    int
        At first the environment variable RNNKERNELS_NUM_THREADS, or else OMP_NUM_THREADS, or else all processors that
        the affinity of the process and the limits of its container allow.

    Examples
    --------
    >>> from rnnkernels import get_num_threads
    >>> get_num_threads() >= 1
    True
    """
    return _num_threads


def set_num_threads(num_threads: int) -> None:
    """Set the number of threads that a call may use; a call with `num_threads=` decides for itself.

    Parameters
    ----------
    num_threads : int
        At least 1. Small calls use fewer. Results do not depend on it, not in a single bit.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is less than 1.

    Examples
    --------
    >>> from rnnkernels import get_num_threads, set_num_threads
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    global _num_threads
    _num_threads = check_num_threads(num_threads)


def threads_for(flops: float, parts: int, num_threads: int | None) -> int:
    """How many threads a call takes that has `flops` operations and can be divided in `parts`."""
    allowed = _num_threads if num_threads is None else check_num_threads(num_threads)
    return max(min(allowed, parts, int(flops / THREAD_FLOPS)), 1)


class Team:
    """The calling thread and up to `threads - 1` others, for the kernel calls of a `with` block."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: _Pool | None = None
        self._run = self._first = _Run(1)

    def __enter__(self) -> "Team":
        if self.threads > 1 and _pool.free.acquire(blocking=False):
            self._pool = _pool
            self._run = self._first = _Run(self.threads)
            self._pool.wake(self._run, self.threads - 1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._run.words[kernels.BELL] = kernels.OVER
            self._pool.free.release()

    def run(self, kernel: Callable[..., None], data: tuple[Any, ...], work: tuple[Any, ...]) -> None:
        """Run `kernel(*data, team, leader, *work)` with this thread as leader."""
        run = self._run
        if self._pool:
            self._run = run.next = _Run(self.threads)
            run.call = kernel, (*data, run.words, False, *work)
            run.words[kernels.EXPECTED] = self._first.words[kernels.AWAKE]
        else:
            run.words.fill(0)
        try:
            kernel(*data, run.words, True, *work)
        finally:
            if run.words[kernels.BELL] != kernels.RUNG:  # an exception before the kernel began, such as an interrupt
                run.words[kernels.BELL] = kernels.OVER


def segments(count: int, flops_each: float) -> Iterator[tuple[int, int]]:
    """Divide `count` steps or rows into runs so short that Python sees an interrupt soon."""
    length = max(int(SEGMENT_FLOPS / max(flops_each, 1)), 1)
    for begin in range(0, count, length):
        yield begin, min(begin + length, count)

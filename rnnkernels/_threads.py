"""How many threads a call takes, and the threads themselves.

A small pool of Python threads runs kernels that have released the GIL; nothing of Numba's or a BLAS's own threading is
used. A call wakes them up when it starts, so that they are awake when it has packed its weights and leads them into the
kernel (see `rnnkernels.kernels.team`). After each kernel they listen for the next one for a moment before they go to
sleep, so that calls that follow one another find them awake. While one call uses the pool, concurrent calls run on
their own thread alone, so that there are no more busy threads than asked for and callers.
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

_Call = tuple[Callable[..., Any], tuple[Any, ...]]


class _Run:
    """One kernel call of a team: its words, and, when the bell rings, a call for each other member and the next run.

    A call that is over, or was never made, has none left: so nobody keeps its arrays alive.
    """

    __slots__ = ("__weakref__", "calls", "next", "threads", "words")

    next: "_Run"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.words = np.zeros(kernels.BARRIERS + threads * kernels.WORDS, np.int64)
        self.words[kernels.FORGIVEN] = kernels.FORGIVEN_WAITS
        self.calls: list[_Call] = []

    def take(self) -> _Call | None:
        """Return a call for one more member, or None if it comes too late or is one too many."""
        with contextlib.suppress(IndexError):
            return self.calls.pop()
        return None


class _Pool:
    """Threads that wait for teams; they are started when first needed, and end with the process.

    Runs form a chain, from team to team. A thread that is awake follows it and listens to the bell of the next run; one
    that has gone to sleep waits in a queue for a run to begin with.
    """

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.queue: queue.SimpleQueue[_Run] = queue.SimpleQueue()
        self.count = 0
        self.roster = np.zeros(kernels.WORDS, np.int64)
        self.next_run = _Run(1)

    def assemble(self, threads: int) -> _Run:
        """Return the first run of a team of so many threads, and see to it that they listen to its bell."""
        run, first = self.next_run, _Run(threads)
        run.next = self.next_run = first
        run.words[kernels.BELL] = kernels.RUNG
        self.roster[kernels.AT_WORK] = 1
        self.wake_up(first)
        return first

    def dismiss(self, run: _Run) -> None:
        """Let a team go; `run` is the next one of its chain."""
        self.next_run = run
        self.roster[kernels.AT_WORK] = 0
        self.free.release()

    def wake_up(self, run: _Run) -> None:
        """Have as many threads follow the chain from `run` on as its team lacks; nothing waits for them."""
        others = run.threads - 1
        with contextlib.suppress(RuntimeError):  # the system starts no more threads: those that there are will do
            while self.count < others:
                threading.Thread(target=self._work, name=f"rnnkernels-{self.count}", daemon=True).start()
                self.count += 1
        for _ in range(min(others, self.count) - self.roster[kernels.AWAKE] - self.queue.qsize()):
            self.queue.put(run)

    def _work(self) -> None:
        while True:
            self._follow(self.queue.get())

    def _follow(self, run: _Run) -> None:
        """Take part in runs, until the next one is long in coming."""
        kernels.count_awake(self.roster, 1)
        try:
            while kernels.wait_for_bell(run.words, self.roster, kernels.IDLE_TURNS, kernels.BUSY_TURNS):
                if call := run.take():
                    function, arguments = call
                    function(*arguments)
                    del call, function, arguments
                elif self.roster[kernels.AWAKE] >= run.threads:
                    return  # teams have become smaller
                run = run.next
        finally:
            kernels.count_awake(self.roster, -1)


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
        self._run = _Run(1)

    def __enter__(self) -> "Team":
        pool = _pool
        if self.threads > 1 and pool.free.acquire(blocking=False):
            with contextlib.ExitStack() as undo:  # in case of an interrupt
                undo.callback(lambda: pool.dismiss(pool.next_run))
                self._run = pool.assemble(self.threads)
                self._pool = pool
                undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.dismiss(self._run)

    def run(self, kernel: Callable[..., None], data: tuple[Any, ...], work: tuple[Any, ...]) -> None:
        """Run `kernel(*data, team, leader, *work)` with this thread as leader."""
        run, pool = self._run, self._pool
        try:
            if pool:
                run.next = self._run = _Run(self.threads)
                run.calls = [(kernel, (*data, run.words, False, *work))] * (self.threads - 1)
                pool.wake_up(run)
                run.words[kernels.EXPECTED] = min(pool.roster[kernels.AWAKE], self.threads - 1)
            else:
                run.words.fill(0)
            kernel(*data, run.words, True, *work)
        finally:  # also where an interrupt comes before the kernel begins
            run.calls.clear()
            if pool:
                run.words[kernels.BELL] = kernels.RUNG


def segments(count: int, flops_each: float) -> Iterator[tuple[int, int]]:
    """Divide `count` steps or rows into runs so short that Python sees an interrupt soon."""
    length = max(int(SEGMENT_FLOPS / max(flops_each, 1)), 1)
    for begin in range(0, count, length):
        yield begin, min(begin + length, count)

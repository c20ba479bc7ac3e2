"""How many threads a call takes, and the threads themselves.

A small pool of Python threads runs kernels that have released the GIL; nothing of Numba's or a BLAS's own threading is
used. The calling thread leads and starts at once; the others find it in the kernel when they have woken up (see
`rnnkernels.kernels.team`). While one call uses the pool, concurrent calls run on their own thread alone, so that there
are never more busy threads than asked for and callers.
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
from rnnkernels.kernels.team import WORDS

Job = tuple[Callable[..., Any], tuple[Any, ...]]


class _Pool:
    """Threads that wait for jobs; they are started when first needed, and end with the process."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.count = 0

    def submit(self, job: Job, times: int) -> None:
        """Ask `times` threads to do a job. Nothing waits for them."""
        while self.count < times:
            threading.Thread(target=self._work, name=f"rnnkernels-{self.count}", daemon=True).start()
            self.count += 1
        for _ in range(times):
            self.jobs.put(job)

    def _work(self) -> None:
        while True:
            function, arguments = self.jobs.get()
            function(*arguments)
            del function, arguments  # a waiting thread keeps no arrays alive


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


def run_team(kernel: Callable[..., None], data: tuple[Any, ...], work: tuple[int, ...], threads: int) -> None:
    """Run `kernel(*data, team, leader, *work)` with this thread as leader and up to `threads - 1` other members."""
    team = np.zeros((1 + threads) * WORDS + WORDS, np.int64)
    if threads == 1 or not _pool.free.acquire(blocking=False):
        kernel(*data, team, True, *work)
        return
    pool = _pool
    try:
        pool.submit((kernel, (*data, team, False, *work)), threads - 1)
        kernel(*data, team, True, *work)
    finally:
        pool.free.release()


def segments(count: int, flops_each: float) -> Iterator[tuple[int, int]]:
    """Divide `count` steps or rows into runs so short that Python sees an interrupt soon."""
    length = max(int(SEGMENT_FLOPS / max(flops_each, 1)), 1)
    for begin in range(0, count, length):
        yield begin, min(begin + length, count)

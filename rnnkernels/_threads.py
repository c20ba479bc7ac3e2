"""How many threads a call takes, and the threads themselves.

A small pool of Python threads runs kernels that have released the GIL; nothing of Numba's or a BLAS's own threading is
used. A call wakes them up when it starts, so that they are awake when it has packed its weights and leads them into the
kernel (see `rnnkernels.kernels.team`). After each kernel they listen for the next one for a moment before they go to
sleep, so that calls that follow one another find them awake. Where two parts of a call need not meet at each step, one
of them runs on such a thread as a whole. While one call uses the pool, concurrent calls run on their own thread alone,
so that there are no more busy threads than asked for and callers.

Whether more threads are worth their processors depends on the machine, and on what else it does at the moment. So each
kind of call has a `Pace`: calls of a kind that have gained too little by a team go on alone for a while.
"""

import contextlib
import os
import queue
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rnnkernels._checks.settings import check_num_threads
from rnnkernels._tuning import (
    HARM,
    LEAST_REST,
    LITTLE_DOUBT,
    MOST_REST,
    MOST_REST_NS,
    REVIEW_CALLS,
    SEGMENT_FLOPS,
    THREAD_FLOPS,
    UNSEEN_FLOPS,
    WORTH,
)
from rnnkernels.kernels import team as kernels

R = TypeVar("R")


class _Pool:
    """Threads that take part in the kernels of teams; they are started when first needed, and end with the process.

    They share one board. A thread that is awake listens to it inside a kernel, without the GIL; one that has gone to
    sleep waits in a queue for what to do.
    """

    def __init__(self) -> None:
        self._holder: dict[str, weakref.ref[Any]] = {}
        self.queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.count = 0
        self.board = np.zeros(kernels.BARRIERS + kernels.MOST_MEMBERS * kernels.WORDS, np.int64)

    @property
    def is_free(self) -> bool:
        """Whether no call has the threads."""
        return not self._holder

    def take(self, holder: Any) -> bool:
        """Whether `holder` has the threads now: until it gives them back, or is gone, as an interrupt may leave it."""
        mine = weakref.ref(holder, self._lost)
        return self._holder.setdefault("it", mine) is mine

    def give_back(self) -> None:
        """Let the threads of a team sleep, and the next one have them."""
        self.board[kernels.AT_WORK] = 0
        self._holder.clear()

    def _lost(self, holder: "weakref.ref[Any]") -> None:
        if self._holder.get("it") is holder:
            self.give_back()

    def wake_up(self, others: int) -> None:
        """Have at least so many threads listen soon; nothing waits for them."""
        self.start_threads(others)
        for _ in range(min(others, self.count) - self.board[kernels.AWAKE] - self.queue.qsize()):
            self.queue.put(self._listen)

    def start_threads(self, others: int) -> None:
        """Have at least so many threads if the system starts them: those that there are will do."""
        with contextlib.suppress(RuntimeError):
            while self.count < others:
                threading.Thread(target=self._work, name=f"rnnkernels-{self.count}", daemon=True).start()
                self.count += 1

    def _work(self) -> None:
        while True:
            self.queue.get()()

    def _listen(self) -> None:
        kernels.listen(self.board, kernels.IDLE_TURNS, kernels.BUSY_TURNS)


_pool = _Pool()

ALONE = np.zeros(kernels.BARRIERS + kernels.WORDS, np.int64)
"""Board of calls that want nobody else; they leave it as it was but for words that nobody reads."""


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
        text = os.environ.get(variable, "")
        if text.strip().isdecimal() and int(text) >= 1:
            return min(int(text), available_threads())
        if text and variable.startswith("RNNKERNELS"):  # the other is not ours, and may be a list
            message = f"{variable} must be an integer, at least 1; got {text!r}, which is ignored."
            warnings.warn(message, RuntimeWarning, stacklevel=2)
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
    """How many threads a call takes that has `flops` operations and can be divided in `parts`; 256 at most."""
    allowed = _num_threads if num_threads is None else check_num_threads(num_threads)
    return max(min(allowed, parts, int(flops / THREAD_FLOPS), kernels.MOST_MEMBERS), 1)


def is_for_one(flops: float, num_threads: int | None) -> bool:
    """Whether a call with `flops` operations is too small for a second thread, or is to have one only."""
    if num_threads is not None and check_num_threads(num_threads) == 1:
        return flops < SEGMENT_FLOPS
    return flops < 2 * THREAD_FLOPS


class Pace:
    """How long calls of one kind take alone, and when the next one had better be alone.

    The first call has a team, the second none. From then on calls have one as long as it makes them WORTH times as
    fast, and are alone for a while otherwise: at once if a team took HARM times as long as one thread; after the second
    call in a row that took as long, since the first may have found the others asleep; and after the fifth that gained,
    but less than it should. Now and then one call is alone to see what that takes now.
    """

    __slots__ = ("alone_ns", "calls", "doubts", "rest", "rest_end_ns")

    def __init__(self) -> None:
        self.alone_ns = self.rest_end_ns = self.doubts = 0.0
        self.calls = 0
        self.rest = LEAST_REST

    def wants_team(self, now_ns: int) -> bool:
        """Whether a call that begins now is to have a team."""
        self.calls += 1
        return now_ns >= self.rest_end_ns and self.calls % REVIEW_CALLS != 2

    def saw(self, with_team: bool, begin_ns: int, end_ns: int, steps: int = 1) -> None:
        """Learn from a call of so many steps."""
        took_ns = (end_ns - begin_ns) / steps
        if not with_team:
            self.alone_ns = min(took_ns, 2 * self.alone_ns or took_ns)  # one that was held up does not count for much
            return
        if not self.alone_ns or took_ns * WORTH <= self.alone_ns:
            self.doubts, self.rest = 0, LEAST_REST
            return
        self.doubts += 1 if took_ns >= self.alone_ns else LITTLE_DOUBT
        if self.doubts > 1 or took_ns > HARM * self.alone_ns:
            self.doubts = 0
            self.rest_end_ns = end_ns + min(self.rest * self.alone_ns * steps, MOST_REST_NS)
            self.rest = min(2 * self.rest, MOST_REST)


_paces: dict[Hashable, Pace] = {}

MOST_PACES = 1024


def _pace_of(kind: Hashable, threads: int) -> Pace | None:
    pace = _paces.get((kind, threads))
    if pace is None and len(_paces) < MOST_PACES:
        pace = _paces[kind, threads] = Pace()
    return pace


class Team:
    """The calling thread and up to `threads - 1` others, for the kernel calls of a `with` block.

    `kind` is equal for calls that take as long as one another, or as long for each of so many `steps`.
    """

    def __init__(self, threads: int, kind: Hashable = None, steps: int = 1) -> None:
        self._steps = steps
        self._others = threads - 1
        self._pool: _Pool | None = None
        self._board = np.zeros(kernels.BARRIERS + kernels.WORDS, np.int64)
        self._pace: Pace | None = None
        self._begin_ns = 0
        if threads > 1 and kind is not None:
            self._pace = _pace_of(kind, threads)

    def __enter__(self) -> "Team":
        pool, wants_others = _pool, self._others > 0
        if self._pace:
            self._begin_ns = time.perf_counter_ns()
            wants_others = self._pace.wants_team(self._begin_ns)
        if wants_others and pool.take(self):
            self._pool, self._board = pool, pool.board
            with contextlib.ExitStack() as undo:  # in case of an interrupt, whose traceback may keep this
                undo.callback(self.__exit__, KeyboardInterrupt)
                self._board[kernels.OTHERS] = self._others
                self._board[kernels.AT_WORK] = 1
                self._board[kernels.WELCOMED] = kernels.WELCOME
                self._board[kernels.FORGIVEN] = kernels.FORGIVEN_WAITS
                pool.wake_up(self._others)
                undo.pop_all()
        return self

    def __exit__(self, error: object = None, *_: object) -> None:
        if self._pool:
            self._pool.give_back()
        if self._pace and error is None:
            self._pace.saw(self._pool is not None, self._begin_ns, time.perf_counter_ns(), self._steps)

    def run(
        self, kernel: Callable[..., None], data: tuple[Any, ...], work: tuple[Any, ...], flops: float = 0.0
    ) -> None:
        """Run `kernel(*data, team, member, *work)`, which has so many `flops`, with this thread as leader, member 0.

        What is too long for an interrupt to wait for has a leader of its own. After an interrupt it goes on to its end,
        on arrays that nobody else has, and the other threads are free then.
        """
        if self._pool:
            self._pool.wake_up(self._others)
        if flops < UNSEEN_FLOPS:
            kernel(*data, self._board, 0, *work)
            return
        running = start(lambda: kernel(*data, self._board, 0, *work), "rnnkernels-leader")
        with contextlib.ExitStack() as undo:  # in case of an interrupt
            undo.callback(self._leave_to, running)
            wait_for(running)
            undo.pop_all()

    def _leave_to(self, running: Future[None]) -> None:
        """Let the others go when a kernel call has ended."""
        pool, self._pool = self._pool, None
        if pool:
            running.add_done_callback(lambda _: pool.give_back())


def start(function: Callable[[], R], name: str) -> Future[R]:
    """Run a function on a thread that ends with it and holds up no process; here, if the system starts no more."""
    future: Future[R] = Future()
    try:
        threading.Thread(target=_run_for, args=(future, function), name=name, daemon=True).start()
    except RuntimeError:
        _run_for(future, function)
    return future


def _run_for(future: Future[R], function: Callable[[], R]) -> None:
    """Run what a future is of, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except BaseException as error:  # for whoever asks for the result
            future.set_exception(error)


LOOK_SECONDS = 0.1
"""How often a waiting thread looks for an interrupt, where the system does not wake it up for one (Windows)."""


def wait_for(future: Future[R]) -> R:
    """Return the result of a future, or raise its error; an interrupt is seen soon."""
    while not wait([future], LOOK_SECONDS).done:
        pass
    return future.result()


@contextlib.contextmanager
def second_thread(kind: Hashable) -> Iterator[bool]:
    """Whether a `with` block that is to have no teams has a thread beside the calling one, for `side_by_side`.

    `kind` is equal for blocks that take as long as one another, and None for others, of which nothing is learnt.
    """
    pool, begin_ns, holder = _pool, time.perf_counter_ns(), Team(1)
    pace = None if kind is None else _pace_of(kind, 2)
    wants = pace is None or pace.wants_team(begin_ns)
    has = wants and pool.take(holder)
    try:
        yield has
    finally:
        if has:
            pool.give_back()
    if pace is not None:
        pace.saw(has, begin_ns, time.perf_counter_ns())


def side_by_side(first: Callable[[], R], second: Callable[[], R]) -> list[R]:
    """Run two functions at once, in a block that has a `second_thread`; in turn if that is late or cannot start.

    An interrupt of the first leaves the second to end by itself: threads never hold up the end of a process.
    """
    future: Future[R] = Future()

    _pool.start_threads(1)
    if _pool.count:
        _pool.queue.put(lambda: _run_for(future, second))
    try:
        result = first()
    finally:
        is_late = future.cancel()
    return [result, second() if is_late else wait_for(future)]


def segments(count: int, flops_each: float) -> Iterator[tuple[int, int]]:
    """Divide `count` steps or rows into runs so short that Python sees an interrupt soon."""
    length = max(int(SEGMENT_FLOPS / max(flops_each, 1)), 1)
    for begin in range(0, count, length):
        yield begin, min(begin + length, count)

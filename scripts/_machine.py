"""The machine under a measurement: what it is, processes confined to some of its cores, and how fast it can be."""

import contextlib
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC")
"""What the thread pools of NumPy, PyTorch and XLA read when they start."""

ANSWER_TIMEOUT_SECONDS = 600.0


def available_cpus() -> list[int]:
    """CPUs that this process may use, the first of each physical core before any second one."""
    everything = range(os.cpu_count() or 1)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else everything
    return sorted(allowed, key=lambda cpu: (_rank_in_core(cpu), cpu))


def physical_cores() -> int:
    """Number of cores that this process may use, counting two hardware threads of a core as one."""
    cpus = available_cpus()
    return sum(_rank_in_core(cpu) == 0 for cpu in cpus) or len(cpus)


def _rank_in_core(cpu: int) -> int:
    """0 for the first hardware thread of a core, 1 for its sibling; 0 where the system does not tell."""
    try:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        return [int(n) for part in siblings.strip().split(",") for n in _cpu_range(part)].index(cpu)
    except (OSError, ValueError):
        return 0


def _cpu_range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def describe() -> dict[str, Any]:
    """Processor, caches, cores, operating system and Python."""
    return {
        "processor": _processor_name(),
        "cores": physical_cores(),
        "cpus": len(available_cpus()),
        "caches": _caches(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    sizes = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with contextlib.suppress(OSError):
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes[f"L{level}"] = size
    return sizes


class WorkerError(Exception):
    """A worker could not do what it was asked."""


class Worker:
    """An object that lives in a process of its own, on some of the CPUs, and answers method calls over a pipe.

    Between two calls the process sleeps on the pipe, so that workers can be measured in turn without disturbing one
    another. The CPUs and the environment are set before its interpreter starts: thread pools read them when they are
    loaded.
    """

    def __init__(
        self, factory: Callable[..., Any], *arguments: Any, threads: int, variables: dict[str, str] | None = None
    ) -> None:
        self._recipe = factory, arguments
        self._threads = threads
        self._variables = dict.fromkeys(THREAD_VARIABLES, str(threads)) | (variables or {})
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, *self._recipe), daemon=True)
        with _confined(available_cpus()[: self._threads], self._variables):
            self._process.start()
        theirs.close()

    @property
    def process_id(self) -> int:
        """Of the process that it lives in at present."""
        return self._process.pid or 0

    def tell(self, method: str, *arguments: Any) -> None:
        """Start a method call; `hear` waits for its result."""
        with contextlib.suppress(OSError):  # the process is gone: `hear` says so
            self._connection.send((method, arguments))

    def hear(self) -> Any:
        """Result of the call that `tell` started; a worker that does not answer is started anew."""
        try:
            if not self._connection.poll(ANSWER_TIMEOUT_SECONDS):
                raise TimeoutError(f"no answer within {ANSWER_TIMEOUT_SECONDS:.0f} s")
            answer = self._connection.recv()
        except (OSError, EOFError) as error:
            self.close()
            reason = str(error) or f"its process ended with status {self._process.exitcode}"
            self._start()
            raise WorkerError(reason) from None
        if isinstance(answer, WorkerError):
            raise answer
        return answer

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method and wait for its result."""
        self.tell(method, *arguments)
        return self.hear()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(timeout=2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextlib.contextmanager
def _confined(cpus: list[int], variables: dict[str, str]) -> Iterator[None]:
    """Let processes that are started inside inherit these CPUs, where the system has affinities, and variables.

    They inherit, too, that Ctrl-C is ignored: it is for the parent, whose end closes their pipes.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    has_affinity = hasattr(os, "sched_setaffinity")
    mask = os.sched_getaffinity(0) if has_affinity else set()
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if has_affinity:
            os.sched_setaffinity(0, cpus)
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        if has_affinity:
            os.sched_setaffinity(0, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, factory: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows does not inherit it
    subject: Any = None
    while True:
        try:
            method, parameters = connection.recv()
        except (EOFError, OSError):
            return
        try:
            subject = subject or factory(*arguments)
            answer = getattr(subject, method)(*parameters)
        except Exception as error:
            answer = WorkerError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(BrokenPipeError):
            connection.send(answer)


class OtherLoad:
    """How many cores processes other than some of ours have kept busy since it was made."""

    def __init__(self, ours: Iterable[int]) -> None:
        self._ours = list(ours)
        self._begin = time.perf_counter(), *self._busy_seconds()

    def cores(self) -> float | None:
        """None where the system does not tell."""
        began, all_before, ours_before = self._begin
        everything, ours = self._busy_seconds()
        if not everything:
            return None
        return max(0.0, everything - all_before - (ours - ours_before)) / (time.perf_counter() - began)

    def _busy_seconds(self) -> tuple[float, float]:
        """Busy seconds of all processes, and of ours."""
        try:
            user, nice, system, _, _, *interrupts_and_stolen = _ticks("/proc/stat", 1)
            return user + nice + system + sum(interrupts_and_stolen[:3]), sum(map(self._process_seconds, self._ours))
        except (OSError, ValueError):
            return 0.0, 0.0

    @staticmethod
    def _process_seconds(process: int) -> float:
        try:
            return sum(_ticks(f"/proc/{process}/stat", 13)[:2])
        except OSError:  # it has ended
            return 0.0


def _ticks(path: str, first: int) -> list[float]:
    """Numbers of the first line from a position on, in seconds; a name in brackets may have spaces."""
    line = Path(path).read_text().partition("\n")[0]
    _, bracket, tail = line.rpartition(")")
    fields = ["", "", *tail.split()] if bracket else line.split()
    return [int(number) / os.sysconf("SC_CLK_TCK") for number in fields[first:]]


def sleep_until_idle() -> None:
    """Return when the threads of this process have stopped spinning, or after a second."""
    deadline = time.perf_counter() + 1
    while time.perf_counter() < deadline:
        used = time.process_time()
        time.sleep(0.005)
        if time.process_time() - used < 0.001:
            return


class Limits:
    """The speeds that no kernel can exceed, measured with all of `threads` threads at work at once."""

    def __init__(self, threads: int) -> None:
        from rnnkernels import roofline  # not above: workers of check_regressions.py choose a build of it first

        self.threads = threads
        self._roofline = roofline

    def fma_peak(self, dtype: str) -> float:
        """Floating-point operations per second of all threads together; a fused multiply-add counts as two."""
        return self._roofline.fma_peak(dtype, self.threads)

    def read_bandwidth(self, n_bytes: int) -> float:
        """Bytes per second of all threads together, each of which reads `n_bytes` of its own again and again."""
        return self._roofline.read_bandwidth(max(1, n_bytes), self.threads)

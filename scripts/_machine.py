"""The machine under a measurement: what it is, processes confined to some of its cores, and how fast it can be."""

import contextlib
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cpuinfo
import psutil

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC")
"""What the thread pools of NumPy, PyTorch and XLA read when they start."""

ANSWER_TIMEOUT_SECONDS = 600.0

HAS_AFFINITY = hasattr(psutil.Process, "cpu_affinity")
"""macOS has none."""

BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
"""The fields of psutil's times that count what processors do; not all systems have all of them."""


def available_cpus() -> list[int]:
    """CPUs that this process may use, the first of each physical core before any second one."""
    allowed = psutil.Process().cpu_affinity() if HAS_AFFINITY else range(os.cpu_count() or 1)
    return sorted(allowed, key=lambda cpu: (_rank_in_core(cpu), cpu))


def physical_cores() -> int:
    """Number of cores that this process may use, counting two hardware threads of a core as one."""
    cpus = available_cpus()
    return sum(_rank_in_core(cpu) == 0 for cpu in cpus) or len(cpus)


def _rank_in_core(cpu: int) -> int:
    """0 for the first hardware thread of a core, 1 for its sibling; 0 where the system does not tell.

    psutil counts the cores of the machine, not those that a process may use, and does not say which CPUs share one.
    """
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


@cache
def _processor_name() -> str:
    """Asked once: py-cpuinfo measures the clock, too, which takes a second."""
    with contextlib.suppress(Exception):  # it raises any on a processor that it does not know
        if name := cpuinfo.get_cpu_info().get("brand_raw"):
            return str(name)
    return platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    """Caches as one CPU sees them; py-cpuinfo has the sums over all cores of those that are not shared."""
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
    ourselves = psutil.Process()
    mask = ourselves.cpu_affinity() if HAS_AFFINITY else []
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if HAS_AFFINITY:
            ourselves.cpu_affinity(cpus)
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        if HAS_AFFINITY:
            ourselves.cpu_affinity(mask)
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
        self._ours: list[psutil.Process] = []
        for process in ours:
            with contextlib.suppress(psutil.Error):  # it has ended
                self._ours.append(psutil.Process(process))
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
        ours = sum(map(self._process_seconds, self._ours))
        try:
            times = psutil.cpu_times()
        except (OSError, RuntimeError):
            return 0.0, 0.0
        return sum(getattr(times, field, 0.0) for field in BUSY), ours

    @staticmethod
    def _process_seconds(process: psutil.Process) -> float:
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has ended
            return 0.0
        return times.user + times.system


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

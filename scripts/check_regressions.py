#!/usr/bin/env python3
"""Tell whether a commit is slower than another one, on a machine that is never quiet.

    python scripts/check_regressions.py main                           the working tree against main
    python scripts/check_regressions.py v0.1.0 main                    main against v0.1.0
    python scripts/check_regressions.py main --bench "lstm.*char-rnn"  some of the benchmarks

The benchmarks are the `time_` ones of asv_bench in this checkout, without those of plain NumPy.

First it proves what need not be timed. Kernels are compiled deterministically: where the optimised machine code of
every kernel that a benchmark loads is the same in both commits, and so are the Python files of its path but for
comments and docstrings, the benchmark has the same code and is not slower. What cannot be proven is timed;
`scripts/_fingerprints.py` has the details.

Each commit has a process of its own, and the two are timed in turn, a call or two at a time and in alternating order:
what slows the machine down for longer than that slows down both. A round gives one ratio, time of HEAD over time of
BASE. Wilcoxon's signed ranks, which no outlier can move far, tell whether the ratio proper lies above the minimum
effect or below it; of the benchmarks called slower, 2 % are expected to be so falsely (a false discovery rate), however
many benchmarks and looks at the data there are; `scripts/_verdicts.py` has the details. As long as neither is certain a
benchmark gets more rounds, in new processes, and those get them first that they are likely to decide. Benchmarks that
time the same calls at several sizes and differ in the same kernels are tested together, too: they can be slower as a
kind where no single one tells. What is open in the end is shown as open.

Exit status, the first that holds:
    130  Ctrl-C ended the check; what it had measured by then is shown
    1    something is slower
    2    a benchmark fails, or the check cannot run: what it needs is looked at before anything is built or measured
    3    no verdict: the time or the rounds ran out before the share of benchmarks that --decided asks for was decided
    0    nothing is slower

Source trees, machine code and fingerprints stay in asv_bench/.asv/commits, by what the code is: commits that differ in
comments and docstrings share them. The folder can be deleted at any time.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import itertools
import json
import logging
import math
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

NOTHING_SLOWER, SOMETHING_SLOWER, CANNOT_RUN, NO_VERDICT, INTERRUPTED = 0, 1, 2, 3, 130
INSTALL = 'python -m pip install -e ".[bench]"'

try:
    import _verdicts
    import numpy as np
    from _fingerprints import Fingerprint, Recorder, canonical_source, difference
    from _machine import Worker, WorkerError, available_cpus, describe
    from _verdicts import EVEN, FASTER, OPEN, SLOWER, CommonEvidence, Evidence
    from tqdm import tqdm

    for needed in ("numba", "scipy"):  # which not all of the processes import
        if importlib.util.find_spec(needed) is None:
            raise ModuleNotFoundError(name=needed)
except ModuleNotFoundError as missing:
    print(f"{missing.name} is not installed for {sys.executable}; {INSTALL} installs it.", file=sys.stderr)
    sys.exit(CANNOT_RUN)

ROOT = Path(__file__).resolve().parent.parent
BUILDS = ROOT / "asv_bench" / ".asv" / "commits"

VISIT_SECONDS = 0.010
SAMPLE_SECONDS = 0.001
"""A visit times calls for so long, in samples of at least so long."""

WARM_SECONDS = 0.005
"""Calls shorter than this are called once before they are timed: the other process has emptied the caches."""


class Suite:
    """The benchmarks in a worker, with the package of one source tree."""

    def __init__(self, tree: str) -> None:
        sys.path[:0] = [tree, str(ROOT / "asv_bench")]
        benchmarks = importlib.import_module("benchmarks")
        plain_numpy = importlib.import_module("benchmarks.common").NUMPY
        self._cases: dict[str, tuple[Any, str, tuple[str, ...]]] = {}
        for module in pkgutil.iter_modules(benchmarks.__path__, "benchmarks."):
            for name, method, parameters in _timed_methods(importlib.import_module(module.name)):
                if plain_numpy not in parameters:
                    self._cases[f"{name}({', '.join(parameters)})"] = (*method, parameters)

    def names(self) -> list[str]:
        """Names as asv writes them, without quotes."""
        return list(self._cases)

    def compile_options(self, names: list[str]) -> list[str]:
        """What `python -m rnnkernels compile` is to compile for benchmarks; nothing if they need no cell."""
        gates = importlib.import_module("benchmarks.common").GATES
        text = " ".join(names).lower().replace("char-rnn", "")
        cells = [cell for cell in gates if cell.partition("_")[0] in text]
        is_double = {"float64" in self._cases[name][2] for name in names}
        dtypes = [dtype for dtype, flag in (("float32", False), ("float64", True)) if flag in is_double]
        options = [("--cell", cell) for cell in cells] + [("--dtype", dtype) for dtype in dtypes]
        return [word for option in options for word in option] if cells else []

    def prepare(self, name: str) -> float | None:
        """Set a benchmark up and compile it; return the seconds of a call, or None if the commit has no such thing."""
        benchmark, method, parameters = self._cases[name]
        try:
            benchmark.setup(*parameters)
        except NotImplementedError:
            return None
        getattr(benchmark, method)(*parameters)
        return min(self.visit(name, 1, 2, False))

    def visit(self, name: str, number: int, samples: int, warm: bool) -> list[float]:
        """Seconds of a call, in samples of `number` calls."""
        benchmark, method, parameters = self._cases[name]
        benchmark.setup(*parameters)
        call = getattr(benchmark, method)
        if warm:
            call(*parameters)
        seconds = []
        gc.disable()
        try:
            for _ in range(samples):
                begin = time.perf_counter()
                for _ in range(number):
                    call(*parameters)
                seconds.append((time.perf_counter() - begin) / number)
        finally:
            gc.enable()
        return seconds


class TracedSuite(Suite):
    """The benchmarks in a worker that tells what they run."""

    def __init__(self, tree: str) -> None:
        logging.getLogger("rnnkernels").setLevel(logging.ERROR)  # that it compiles is said already
        self._recorder = Recorder(Path(tree, "rnnkernels"))
        super().__init__(tree)
        self._recorder.imported()

    def fingerprint(self, name: str) -> Fingerprint | None:
        """All code that a benchmark runs; None if that cannot be told, or the commit has no such thing."""
        benchmark, method, parameters = self._cases[name]

        def call() -> None:
            benchmark.setup(*parameters)
            getattr(benchmark, method)(*parameters)

        return self._recorder.fingerprint(call)


def _timed_methods(module: Any) -> Iterator[tuple[str, tuple[Any, str], tuple[str, ...]]]:
    """Name, object with method, and parameters, by the rules of asv."""
    benchmark: Any
    for class_name, benchmark in inspect.getmembers(module, inspect.isclass):
        if not inspect.isabstract(benchmark):
            for method in dir(benchmark):
                if method.startswith("time_"):
                    name = f"{module.__name__.partition('.')[2]}.{class_name}.{method}"
                    for parameters in itertools.product(*benchmark.params):
                        yield name, (benchmark(), method), parameters


@dataclass(frozen=True)
class Commit:
    """A commit, or the working tree, by its Git tree."""

    label: str
    tree: str

    @cached_property
    def folder(self) -> Path:
        """Where its package is unpacked and its machine code kept; shared by commits whose code is the same."""
        archive = _git("archive", "--format=tar", self.tree, "rnnkernels")
        with tempfile.TemporaryDirectory(dir=_made(BUILDS)) as scratch:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(scratch, filter="data")
            package = Path(scratch, "rnnkernels")
            folder = BUILDS / _code_digest(package)
            if not (folder / "rnnkernels").exists():
                package.rename(_made(folder) / "rnnkernels")
        return folder

    def worker(self, suite: type[Suite] = Suite) -> Worker:
        """Start a process with its package."""
        return Worker(suite, str(self.folder), threads=len(available_cpus()), variables=self._variables)

    def compile(self, options: list[str]) -> None:
        """Compile on all processors; a commit that cannot do so compiles when benchmarks are set up."""
        self._command("compile", "--jobs", str(len(available_cpus())), *options)

    @cached_property
    def code_folder(self) -> Path | None:
        """Where its machine code is kept, if the commit can tell."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return Path(json.loads(self._command("--json"))["code_folder"])
        return None

    def take_over(self, other: Commit) -> None:
        """Copy machine code that another commit has; what is not of the code of this one is refused when it is loaded.

        For commits in which the sources of a kernel are the same.
        """
        if self.code_folder and other.code_folder:
            _made(self.code_folder)
            for path in other.code_folder.glob("*.nbc"):
                if not (self.code_folder / path.name).exists():
                    shutil.copy2(path, self.code_folder)

    def _command(self, *arguments: str) -> bytes:
        command = [sys.executable, "-m", "rnnkernels", *arguments]
        environment = os.environ | self._variables
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            return process.communicate()[0]
        finally:
            process.terminate()
            process.wait()

    @property
    def _variables(self) -> dict[str, str]:
        return {"NUMBA_CACHE_DIR": str(self.folder / "numba")}


def _code_digest(package: Path) -> str:
    """Name of the code of a package, apart from comments and docstrings."""
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".py":
            with contextlib.suppress(SyntaxError):
                content = canonical_source(content).encode()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


class Known:
    """What earlier runs have found out about the code in a folder, on this machine and with these versions."""

    def __init__(self, folder: Path) -> None:
        self._file, self._circumstances = folder / "known.json", _circumstances()
        kept: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            kept = json.loads(self._file.read_text(encoding="utf-8"))
        if kept.get("circumstances") != self._circumstances:
            kept = {}
        self.fingerprints: dict[str, Fingerprint] = kept.get("fingerprints", {})
        self.compiled: list[list[str]] = kept.get("compiled", [])
        """Options of the compilations that there have been."""

    def save(self) -> None:
        """Keep it; whoever reads meanwhile sees the old or the new."""
        kept = {
            "circumstances": self._circumstances,
            "fingerprints": self.fingerprints,
            "compiled": self.compiled,
        }
        draft = self._file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(kept), encoding="utf-8")
        draft.replace(self._file)


def _circumstances() -> str:
    """Digest of all that a fingerprint depends on besides the code of the commit."""
    sources = [*sorted((ROOT / "asv_bench" / "benchmarks").glob("*.py")), Path(__file__).with_name("_fingerprints.py")]
    versions = {name: importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy")}
    settings = {name: value for name, value in os.environ.items() if name.startswith(("NUMBA_", "RNNKERNELS_"))}
    facts = json.dumps([describe(), sys.version, versions, settings], sort_keys=True)
    return hashlib.sha256(b"\0".join([facts.encode(), *(path.read_bytes() for path in sources)])).hexdigest()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _git(*arguments: str, **variables: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, env=os.environ | variables, check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise CheckError("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise GitError(f"git {arguments[0]}: {error.stderr.decode(errors='replace').strip()}") from None


def _git_line(*arguments: str, **variables: str) -> str:
    return _git(*arguments, **variables).decode(errors="replace").strip()


def find_commit(name: str) -> Commit:
    """Look a commit up by any name that Git knows."""
    try:
        commit = _git_line("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        _git("cat-file", "-e", f"{commit}:rnnkernels")
    except GitError as error:
        raise CheckError(
            f"{name!r} is no commit with a folder rnnkernels ({error}); name another one, or let Git fetch it"
        ) from None
    return Commit(_git_line("log", "-1", "--format=%h %s", commit), _git_line("rev-parse", f"{commit}^{{tree}}"))


def working_tree() -> Commit:
    """The files as they are, with those that Git would add; the index stays as it is."""
    if not _git_line("status", "--porcelain", "--", "rnnkernels"):
        return find_commit("HEAD")
    with tempfile.TemporaryDirectory() as scratch:
        index = str(Path(scratch) / "index")
        _git("read-tree", "HEAD", GIT_INDEX_FILE=index)
        _git("add", "--all", "--", "rnnkernels", GIT_INDEX_FILE=index)
        tree = _git_line("write-tree", GIT_INDEX_FILE=index)
    return Commit(f"working tree on {_git_line('rev-parse', '--short', 'HEAD')}", tree)


class CheckError(Exception):
    """The check cannot be done."""


class GitError(CheckError):
    """Git has failed."""


def require_writable(option: str, path: Path) -> None:
    """Try to open a file for writing; leave everything as it was."""
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise CheckError(f"{option} {path} cannot be written: {error.strerror}; name another file") from None


SAME, FAILED, NEW, GONE, TOGETHER = "same code", "failed", "new", "gone", "slower together"
VERDICTS = {
    SLOWER: "slower by more than the minimum effect",
    TOGETHER: "slower as their kind is, by more than half of the minimum effect",
    FAILED: "failed",
    OPEN: "open: too noisy, or too close to the minimum effect",
    FASTER: "faster by more than the minimum effect",
    EVEN: "not slower by more than the minimum effect",
    SAME: "of the same code, which was not timed",
    NEW: "not in BASE",
    GONE: "not in HEAD",
}
TIMED = SLOWER, TOGETHER, FASTER, EVEN, OPEN
MOST_DIFFERENCES = 3
"""Names of kernels and files that a remark has."""


@dataclass
class Comparison:
    """One benchmark on both commits."""

    name: str
    verdict: str = OPEN
    remark: str = ""
    different: list[str] = field(default_factory=list)
    """Kernels and files that are not the same, if that is known."""
    call_seconds: float = 0.0
    """As seen before the first round; decides how often a visit calls."""
    base: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    """Seconds of a call, the best sample of each round."""
    spent_seconds: float = 0.0
    setup_seconds: float = 0.0
    """Time that it took to set up in new processes."""
    evidence: Evidence = field(default_factory=Evidence)
    seen: int = 0
    """Rounds at the last look."""
    interval: tuple[float, float, float] = (0.0, math.nan, math.inf)

    def compare(self, base: Fingerprint | None, head: Fingerprint | None) -> None:
        """Spare the rounds if both run the same code, or else say what differs."""
        if base is None or head is None:
            return
        different = [name.removeprefix("rnnkernels/") for name in difference(base, head)]
        if not different:
            self.verdict = SAME
            return
        self.different = different
        more = len(different) - MOST_DIFFERENCES
        names = different[:MOST_DIFFERENCES] + ([f"{more} more"] if more > 0 else [])
        self.remark = f"[differs: {', '.join(names)}]"

    def prepare(self, base: Worker, head: Worker) -> None:
        """Set up and compile in both processes at once."""
        begin = time.perf_counter()
        for worker in (base, head):
            worker.tell("prepare", self.name)
        seconds: list[float | None] = []
        for side, worker in (("BASE", base), ("HEAD", head)):
            try:
                seconds.append(worker.hear())
            except WorkerError as error:
                self.verdict, self.remark = FAILED, f"{side}: {error}"
        if self.verdict == FAILED:
            return
        if None in seconds:
            self.verdict = NEW if seconds[0] is None else GONE
        else:
            self.call_seconds = min(second for second in seconds if second is not None)
        self.setup_seconds = time.perf_counter() - begin

    def one_round(self, base: Worker, head: Worker, base_first: bool) -> None:
        """Visit both processes."""
        begin = time.perf_counter()
        number = math.ceil(SAMPLE_SECONDS / self.call_seconds)
        samples = max(1, round(VISIT_SECONDS / (number * self.call_seconds)))
        warm = self.call_seconds < WARM_SECONDS
        try:
            best = {}
            for worker in (base, head) if base_first else (head, base):
                best[worker] = min(worker.ask("visit", self.name, number, samples, warm))
        except WorkerError as error:
            self.verdict, self.remark = FAILED, str(error)
            return
        self.base.append(best[base])
        self.head.append(best[head])
        self.spent_seconds += time.perf_counter() - begin

    def look(self, limit: float) -> None:
        """Take the rounds since the last look into account."""
        if self.rounds > self.seen:
            self.seen = self.rounds
            self.evidence.look(self.log_ratios, limit)
            self.interval = _verdicts.interval(self.log_ratios)

    @property
    def log_ratios(self) -> np.ndarray:
        """Of all rounds, HEAD over BASE."""
        return np.log(np.array(self.head) / np.array(self.base))

    @property
    def rounds(self) -> int:
        """Rounds so far."""
        return len(self.base)

    @property
    def round_seconds(self) -> float:
        """Time that a round takes."""
        return self.spent_seconds / self.rounds if self.rounds else 4 * max(self.call_seconds, VISIT_SECONDS)

    def seconds_to_decide(self, rounds: int, limit: float) -> float:
        """Time until the verdict, or until it has so many rounds if that is later."""
        if self.rounds:
            rounds = max(rounds, math.ceil(_verdicts.rounds_to_decide(self.log_ratios, limit)))
        return self.setup_seconds + max(rounds - self.rounds, 0) * self.round_seconds

    def record(self) -> dict[str, Any]:
        """Everything, as strict JSON can hold it: what is unknown or unbounded is null."""
        return asdict(self) | {"interval": [end if math.isfinite(end) else None for end in self.interval]}

    def row(self) -> list[str]:
        """Cells of the tables: verdict, ratio, interval, milliseconds, rounds."""
        if not self.rounds:
            return [self.verdict, "", "", "", "", "", self.remark]
        low, ratio, high = self.interval
        interval = f"{low:.3f} - {high:.3f}" if math.isfinite(high) else "too few rounds"
        times = [f"{1e3 * np.median(seconds):.3f}" for seconds in (self.base, self.head)]
        return [self.verdict, f"{ratio:.3f}", interval, *times, str(self.rounds), self.remark]


@dataclass
class Kind:
    """Benchmarks that time the same calls at several sizes, and differ in the same kernels."""

    name: str
    kernels: tuple[str, ...]
    members: list[Comparison] = field(default_factory=list)
    evidence: CommonEvidence = field(default_factory=CommonEvidence)
    is_slower: bool = False

    @classmethod
    def of(cls, comparisons: list[Comparison]) -> list[Kind]:
        """All kinds of some benchmarks that have enough members."""
        kinds: dict[tuple[Any, ...], Kind] = {}
        for comparison in comparisons:
            key = comparison.name.partition("(")[0], tuple(n for n in comparison.different if not n.endswith(".py"))
            kinds.setdefault(key, cls(*key)).members.append(comparison)
        return [kind for kind in kinds.values() if len(kind.members) >= _verdicts.LEAST_OF_A_KIND]

    def look(self, limit: float) -> None:
        """Take the rounds since the last look into account; before the members do."""
        self.evidence.look_at_all([c.log_ratios[c.seen :] for c in self.members if c.verdict in TIMED], limit)

    @property
    def ratio(self) -> float:
        """Of times, in the median of the benchmarks."""
        timed = [float(np.median(c.log_ratios)) for c in self.members if c.rounds]
        return math.exp(float(np.median(timed))) if timed else math.nan

    def __str__(self) -> str:
        kernels = f", which differ in {', '.join(self.kernels)}" if self.kernels else ""
        return (
            f"{self.name}: {len(self.members)} benchmarks{kernels}, are slower as a kind; HEAD / BASE {self.ratio:.3f}."
        )

    def record(self) -> dict[str, Any]:
        """All but the members."""
        return {
            "name": self.name,
            "kernels": self.kernels,
            "benchmarks": len(self.members),
            "ratio": self.ratio if math.isfinite(self.ratio) else None,
            "slower": self.is_slower,
        }


HEADINGS = ["verdict", "HEAD / BASE", "interval", "BASE, ms", "HEAD, ms", "rounds"]


@dataclass
class Check:
    """A comparison of two commits on many benchmarks."""

    base: Commit
    head: Commit
    patterns: list[str]
    minimum_effect: float
    """As a share: 0.05 for 5 %."""
    most_rounds: int
    seconds: float
    """Limit of the timing."""
    required_percent: float
    """Of the benchmarks in both commits, so many have to be decided."""
    times_everything: bool = False
    comparisons: list[Comparison] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    timing_began: float = math.nan

    def run(self) -> None:
        """Prove, then measure until every benchmark has its verdict, or the rounds or the time are used up."""
        known = {commit.folder: Known(commit.folder) for commit in (self.base, self.head)}
        with contextlib.closing(self.head.worker()) as worker:
            self._choose(worker.ask("names"))
            options = worker.ask("compile_options", [c.name for c in self.comparisons])
        self._compile(known, options)
        if not self.times_everything:
            self._prove(known)
        self.kinds = Kind.of(self.open)
        self.timing_began = time.perf_counter()
        for rounds in _verdicts.looks(self.most_rounds):
            if not (self.open and self._pass(rounds)):
                return

    @property
    def open(self) -> list[Comparison]:
        """Benchmarks that need more rounds."""
        return [comparison for comparison in self.comparisons if comparison.verdict == OPEN]

    @property
    def limit(self) -> float:
        """Ratio from which a benchmark is slower."""
        return 1 + self.minimum_effect

    @property
    def used_seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.began

    @property
    def left_seconds(self) -> float:
        """Time that is left for timing."""
        return self.seconds - (time.perf_counter() - self.timing_began)

    def _choose(self, names: list[str]) -> None:
        chosen = [name for name in names if any(re.search(pattern, name) for pattern in self.patterns)]
        if not chosen:
            raise CheckError("no benchmark matches")
        self.comparisons = [Comparison(name) for name in chosen]

    def _compile(self, known: dict[Path, Known], options: list[str]) -> None:
        """Compile what the benchmarks need and neither an earlier run nor the other commit has compiled."""
        for commit, other in ((self.base, self.head), (self.head, self.base)):
            compiled = known[commit.folder].compiled
            if not options or options in compiled:
                continue
            print(f"compiling {commit.label}, which can take minutes", file=sys.stderr, flush=True)
            if other.folder != commit.folder:
                commit.take_over(other)
            commit.compile(options)
            compiled.append(options)
            known[commit.folder].save()

    def _prove(self, known: dict[Path, Known]) -> None:
        """Find the benchmarks that run the same code in both commits."""
        with contextlib.ExitStack() as stack:
            workers: dict[Path, Worker] = {}
            for comparison in self._progress(self.comparisons, "looking for the same code"):
                name = comparison.name
                missing = [c for c in {self.base, self.head} if name not in known[c.folder].fingerprints]
                asked = {commit.folder: commit for commit in missing}
                for folder, commit in asked.items():
                    if folder not in workers:
                        workers[folder] = stack.enter_context(contextlib.closing(commit.worker(TracedSuite)))
                        stack.callback(known[folder].save)
                    workers[folder].tell("fingerprint", name)
                for folder in asked:
                    with contextlib.suppress(WorkerError):  # it has proven nothing, and will fail again when timed
                        found = workers[folder].hear()
                        if found is not None:
                            known[folder].fingerprints[name] = found
                sides = (known[commit.folder].fingerprints.get(name) for commit in (self.base, self.head))
                comparison.compare(*sides)

    def _pass(self, rounds: int) -> bool:
        """Bring open benchmarks to so many rounds in new processes, then judge; False if the time is used up."""
        chosen = self._affordable(rounds)
        if not chosen:
            return False
        with contextlib.ExitStack() as stack:
            base, head = (stack.enter_context(contextlib.closing(c.worker())) for c in (self.base, self.head))
            for comparison in self._progress(chosen, "setting up"):
                comparison.prepare(base, head)
            visits = [
                (number, comparison)
                for number in range(rounds)
                for comparison in sorted(chosen, key=lambda c: c.call_seconds)
                if comparison.verdict == OPEN and number >= comparison.rounds
            ]
            for number, comparison in self._progress(visits, f"{len(self.open)} benchmarks open"):
                if self.left_seconds < 0:
                    break
                if comparison.verdict == OPEN:
                    comparison.one_round(base, head, base_first=number % 2 == 0)
        self.judge()
        return self.left_seconds > 0

    def _affordable(self, rounds: int) -> list[Comparison]:
        """Open benchmarks that can be decided in the time left, the cheapest first."""
        left, chosen = self.left_seconds, []
        for comparison in sorted(self.open, key=lambda c: c.seconds_to_decide(rounds, self.limit)):
            left -= comparison.seconds_to_decide(rounds, self.limit)
            if left < 0:
                break
            chosen.append(comparison)
        return [comparison for comparison in self.comparisons if comparison in chosen]

    def judge(self) -> None:
        """Draw the conclusions from the rounds so far, on all benchmarks together."""
        tested = [comparison for comparison in self.comparisons if comparison.verdict in TIMED]
        for kind in self.kinds:
            kind.look(self.limit)
        for comparison in tested:
            comparison.look(self.limit)
        verdicts = _verdicts.judge([*(c.evidence for c in tested), *(kind.evidence for kind in self.kinds)])
        for comparison, verdict in zip(tested, verdicts, strict=False):
            comparison.verdict = verdict
        for kind, verdict in zip(self.kinds, verdicts[len(tested) :], strict=True):
            kind.is_slower = verdict == SLOWER
            for comparison in kind.members:
                if kind.is_slower and comparison.verdict == OPEN:
                    comparison.verdict = TOGETHER

    def _progress(self, items: list[Any], what: str) -> Iterator[Any]:
        return iter(tqdm(items, what, leave=False, disable=None, file=sys.stderr))

    def sorted(self) -> list[Comparison]:
        """Worst first."""
        ranks = list(VERDICTS)
        return sorted(self.comparisons, key=lambda c: (ranks.index(c.verdict), -c.interval[1], c.name))

    def count(self, verdict: str) -> int:
        """Number of benchmarks with a verdict."""
        return sum(comparison.verdict == verdict for comparison in self.comparisons)

    @property
    def decided(self) -> int:
        """Number of benchmarks that need no more rounds."""
        return sum(self.count(verdict) for verdict in (SLOWER, TOGETHER, FASTER, EVEN, SAME))

    @property
    def status(self) -> int:
        """Exit status, unless Ctrl-C came."""
        if self.count(SLOWER) or self.count(TOGETHER):
            return SOMETHING_SLOWER
        if self.count(FAILED):
            return CANNOT_RUN
        in_both = self.decided + len(self.open)
        enough = in_both and 100 * self.decided >= self.required_percent * in_both
        return NOTHING_SLOWER if enough else NO_VERDICT

    def summary(self) -> str:
        """Number of benchmarks per verdict, and why there is none over all."""
        if not self.comparisons:
            return "Nothing was measured."
        numbers = "; ".join(f"{self.count(v)} {text}" for v, text in VERDICTS.items() if self.count(v)) + "."
        numbers = "\n".join([*(str(kind) for kind in self.kinds if kind.is_slower), numbers])
        if self.status != NO_VERDICT:
            return numbers
        if not self.open:
            return f"{numbers}\nNo verdict: no benchmark is in both commits."
        return (
            f"{numbers}\nNo verdict: {len(self.open)} of {self.decided + len(self.open)} benchmarks are open, and "
            f"{self.required_percent:g} % have to be decided (--decided). More --seconds or --rounds, fewer benchmarks "
            "(--bench) or a machine with less other load let more of them be."
        )

    def conditions(self) -> list[str]:
        """What was compared, and how."""
        machine = describe()
        return [
            f"BASE {self.base.label}",
            f"HEAD {self.head.label}",
            f"minimum effect {100 * self.minimum_effect:g} %; of the benchmarks called slower, "
            f"{100 * _verdicts.FALSE_ALARMS:g} % are expected to be so falsely; each interval by itself holds with "
            f"{100 * _verdicts.INTERVAL:g} % confidence",
            f"{machine['processor']}, {machine['cpus']} CPUs, {machine['system']}, Python {machine['python']}; "
            f"{self.used_seconds:.0f} s",
        ]

    def table(self) -> str:
        """For a terminal."""
        rows = [[*c.row()[:-1], f"{c.name} {c.remark}"] for c in self.sorted()]
        rows.insert(0, [*HEADINGS, "benchmark"])
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
        return "\n".join([*lines, "", *self.conditions(), "", self.summary()])

    def markdown(self) -> str:
        """For a pull request: what needs attention, and the rest folded away."""
        outcome = (
            "no verdict"
            if self.status == NO_VERDICT
            else f"{self.count(SLOWER) + self.count(TOGETHER)} of {len(self.comparisons)} slower"
        )
        lines = [f"### Benchmarks: {outcome}", "", self.summary(), ""]
        attention = [c for c in self.sorted() if c.verdict in (SLOWER, TOGETHER, FAILED, OPEN)]
        if attention:
            lines += [*_markdown_rows(attention), ""]
        others = [c for c in self.sorted() if c not in attention]
        if others:
            lines += [
                f"<details><summary>{len(others)} others</summary>",
                "",
                *_markdown_rows(others),
                "",
                "</details>",
            ]
        return "\n".join([*lines, "", *(f"- {line}" for line in self.conditions()), ""])

    def record(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return {
            "base": asdict(self.base),
            "head": asdict(self.head),
            "machine": describe(),
            "seconds": self.used_seconds,
            "minimum_effect": self.minimum_effect,
            "kinds": [kind.record() for kind in self.kinds],
            "comparisons": [comparison.record() for comparison in self.sorted()],
        }


def _markdown_rows(comparisons: list[Comparison]) -> list[str]:
    rows = [["benchmark", *HEADINGS], ["---"] * (1 + len(HEADINGS))]
    rows += [[f"`{c.name}` {c.remark}", *c.row()[:-1]] for c in comparisons]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="the commit to compare with")
    parser.add_argument("head", metavar="HEAD", nargs="?", help="the commit to judge (default: the working tree)")
    parser.add_argument(
        "--bench", metavar="PATTERN", action="append", help="regular expression of benchmarks; can be repeated"
    )
    parser.add_argument(
        "--minimum-effect",
        metavar="PERCENT",
        type=float,
        default=5,
        help="what counts (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=640, help="most rounds of a benchmark (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=270, help="limit of the timing, without compilation (default: %(default)s)"
    )
    parser.add_argument("--time-everything", action="store_true", help="time what has the same code, too")
    parser.add_argument(
        "--decided",
        metavar="PERCENT",
        type=float,
        default=90,
        help="of the benchmarks in both commits, so many have to be decided (default: %(default)s)",
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write a report for a pull request")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything measured")
    arguments = parser.parse_args(words)
    if not (0 < arguments.minimum_effect < math.inf and arguments.rounds >= 1 and arguments.seconds > 0):
        parser.error("--minimum-effect, --rounds and --seconds must be positive")
    if not 0 <= arguments.decided <= 100:
        parser.error("--decided must be from 0 to 100")
    for pattern in arguments.bench or ():
        try:
            re.compile(pattern)
        except re.error as error:
            parser.error(f"--bench {pattern}: {error}")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Check, and report; return the exit status."""
    for option, path in (("--markdown", arguments.markdown), ("--json", arguments.json)):
        if path:
            require_writable(option, path)
    base = find_commit(arguments.base)
    head = find_commit(arguments.head) if arguments.head else working_tree()
    check = Check(
        base,
        head,
        arguments.bench or [""],
        arguments.minimum_effect / 100,
        arguments.rounds,
        arguments.seconds,
        arguments.decided,
        arguments.time_everything,
    )
    interrupted = False
    try:
        check.run()
    except KeyboardInterrupt:
        interrupted = True
        check.judge()
    print(check.table())
    if arguments.markdown:
        arguments.markdown.write_text(check.markdown(), encoding="utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps(check.record(), indent=1, allow_nan=False), encoding="utf-8")
    return INTERRUPTED if interrupted else check.status


def main(words: list[str] | None = None) -> int:
    """Return the exit status, also for any exception: Python's own would say that something is slower."""
    arguments = parse_arguments(words)
    try:
        return run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (CheckError, WorkerError, OSError) as error:
        print(error, file=sys.stderr)
    except Exception:
        traceback.print_exc()
    return CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main())

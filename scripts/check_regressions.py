#!/usr/bin/env python3
"""Tell whether a commit is slower than another one, on a machine that is never quiet.

    python scripts/check_regressions.py main                          the working tree against main
    python scripts/check_regressions.py v0.1.0 main                   main against v0.1.0
    python scripts/check_regressions.py main --bench "lstm.*char-rnn" some of the benchmarks

The benchmarks are the `time_` ones of asv_bench in this checkout, without those of plain NumPy. Each commit has a
process of its own, and the two are timed in turn, a call or two at a time and in alternating order: what slows the
machine down for longer than that slows down both. A round gives one ratio, time of HEAD over time of BASE. From the
ratios of all rounds comes an interval for the ratio proper, by Wilcoxon's signed ranks, which no outlier can move far.
The intervals are so wide that all of them, however many benchmarks and looks at the data there are, hold together with
a confidence of 99 %. A benchmark is slower if its whole interval lies above the minimum effect, and not slower if the
whole interval lies below it; as long as neither is so it gets more rounds, in new processes. What is open in the end
is shown as open.

Exit status, the first that holds:
    130  Ctrl-C ended the check; what it had measured by then is shown
    1    something is slower
    2    a benchmark fails, or the check cannot run: what it needs is looked at before anything is built or measured
    3    no verdict: the time or the rounds ran out before the share of benchmarks that --decided asks for was decided
    0    nothing is slower

Source trees and machine code of the commits stay in asv_bench/.asv/commits; the folder can be deleted at any time.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import math
import os
import pkgutil
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

NOTHING_SLOWER, SOMETHING_SLOWER, CANNOT_RUN, NO_VERDICT, INTERRUPTED = 0, 1, 2, 3, 130
INSTALL = 'python -m pip install -e ".[bench]"'

try:
    import numpy as np
    from _machine import Worker, WorkerError, available_cpus, describe
    from tqdm import tqdm

    if importlib.util.find_spec("numba") is None:  # only the workers import it, when the source is unpacked
        raise ModuleNotFoundError(name="numba")
except ModuleNotFoundError as missing:
    print(f"{missing.name} is not installed for {sys.executable}; {INSTALL} installs it.", file=sys.stderr)
    sys.exit(CANNOT_RUN)

ROOT = Path(__file__).resolve().parent.parent
BUILDS = ROOT / "asv_bench" / ".asv" / "commits"

FALSE_ALARM = 0.01
"""Probability that any interval of a run misses its true ratio on a given side."""

FIRST_ROUNDS = 20
"""Rounds before the first look: with fewer, no result can be as improbable as a verdict on many benchmarks demands."""

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

    @property
    def folder(self) -> Path:
        """Where its source is unpacked and its machine code kept."""
        return BUILDS / self.tree[:16]

    def unpack(self) -> None:
        """Write its package into the folder, unless it is there."""
        if (self.folder / "rnnkernels").exists():
            return
        archive = _git("archive", "--format=tar", self.tree, "rnnkernels")
        with tempfile.TemporaryDirectory(dir=_made(BUILDS)) as scratch:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(scratch, filter="data")
            (Path(scratch) / "rnnkernels").rename(_made(self.folder) / "rnnkernels")

    def worker(self) -> Worker:
        """Start a process with its package."""
        variables = {"NUMBA_CACHE_DIR": str(self.folder / "numba")}
        return Worker(Suite, str(self.folder), threads=len(available_cpus()), variables=variables)


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


@dataclass(frozen=True)
class Rule:
    """When a verdict falls."""

    minimum_effect: float
    """As a share: 0.05 for 5 %."""
    rounds: int
    tests: int = 1
    """Number of intervals that have to hold together."""

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of rounds after which intervals are computed."""
        looks = [min(FIRST_ROUNDS, self.rounds)]
        while looks[-1] < self.rounds:
            looks.append(min(2 * looks[-1], self.rounds))
        return tuple(looks)

    def interval(self, log_ratios: np.ndarray) -> tuple[float, float, float]:
        """Low end, estimate and high end of the ratio proper.

        The estimate is that of Hodges and Lehmann, the median of the means of all pairs of rounds. The ends are means
        of pairs too, at the ranks where Wilcoxon's test (in its normal approximation, which is the wider one this far
        out) rejects what lies beyond. Both rest on the symmetry of the log ratios about the true one, which the pairing
        brings about: exchange the commits, and the noise is the same.
        """
        n = len(log_ratios)
        first, second = np.triu_indices(n)
        means = np.sort((log_ratios[first] + log_ratios[second]) / 2)
        z = -NormalDist().inv_cdf(FALSE_ALARM / (self.tests * len(self.looks)))
        rank = math.floor(n * (n + 1) / 4 - z * math.sqrt(n * (n + 1) * (2 * n + 1) / 24))
        low, high = (means[rank], means[-1 - rank]) if rank >= 0 else (-math.inf, math.inf)
        return math.exp(low), math.exp(np.median(means)), math.exp(high)


SLOWER, OPEN, FASTER, EVEN, FAILED, NEW, GONE = "slower", "open", "faster", "not slower", "failed", "new", "gone"
VERDICTS = {
    SLOWER: "slower by more than the minimum effect",
    FAILED: "failed",
    OPEN: "open: too noisy, or too close to the minimum effect",
    FASTER: "faster by more than the minimum effect",
    EVEN: "not slower by more than the minimum effect",
    NEW: "not in BASE",
    GONE: "not in HEAD",
}


@dataclass
class Comparison:
    """One benchmark on both commits."""

    name: str
    verdict: str = OPEN
    remark: str = ""
    call_seconds: float = 0.0
    """As seen before the first round; decides how often a visit calls."""
    base: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    """Seconds of a call, the best sample of each round."""
    spent_seconds: float = 0.0
    interval: tuple[float, float, float] = (0.0, math.nan, math.inf)

    def prepare(self, base: Worker, head: Worker) -> None:
        """Set up and compile in both processes at once."""
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

    def judge(self, rule: Rule) -> None:
        """Draw the conclusion from the rounds so far."""
        if not self.base or self.verdict == FAILED:
            return
        self.interval = low, _, high = rule.interval(np.log(np.array(self.head) / np.array(self.base)))
        limit = 1 + rule.minimum_effect
        if low > limit:
            self.verdict = SLOWER
        elif high < 1 / limit:
            self.verdict = FASTER
        elif high < limit:
            self.verdict = EVEN

    @property
    def rounds(self) -> int:
        """Rounds so far."""
        return len(self.base)

    @property
    def round_seconds(self) -> float:
        """Time that a round takes."""
        return self.spent_seconds / self.rounds if self.rounds else 4 * max(self.call_seconds, VISIT_SECONDS)

    def record(self) -> dict[str, Any]:
        """Everything, as strict JSON can hold it: what is unknown or unbounded is null."""
        return vars(self) | {"interval": [end if math.isfinite(end) else None for end in self.interval]}

    def row(self) -> list[str]:
        """Cells of the tables: verdict, ratio, interval, milliseconds, rounds."""
        if not self.rounds:
            return [self.verdict, "", "", "", "", "", self.remark]
        low, ratio, high = self.interval
        interval = f"{low:.3f} - {high:.3f}" if math.isfinite(high) else "too few rounds"
        times = [f"{1e3 * np.median(seconds):.3f}" for seconds in (self.base, self.head)]
        return [self.verdict, f"{ratio:.3f}", interval, *times, str(self.rounds), self.remark]


HEADINGS = ["verdict", "HEAD / BASE", "interval", "BASE, ms", "HEAD, ms", "rounds"]


@dataclass
class Check:
    """A comparison of two commits on many benchmarks."""

    base: Commit
    head: Commit
    patterns: list[str]
    rule: Rule
    seconds: float
    required_percent: float
    """Of the benchmarks in both commits, so many have to be decided."""
    comparisons: list[Comparison] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def run(self) -> None:
        """Measure until every benchmark has its verdict, or the rounds or the time are used up."""
        for commit in (self.base, self.head):
            commit.unpack()
        done = 0
        for look in self.rule.looks:
            in_time = self._pass(look - done)
            if not (in_time and self.open):
                return
            done = look

    @property
    def open(self) -> list[Comparison]:
        """Benchmarks that need more rounds."""
        return [comparison for comparison in self.comparisons if comparison.verdict == OPEN]

    @property
    def used_seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.began

    def _pass(self, rounds: int) -> bool:
        """Give each open benchmark more rounds in new processes, then judge; False if the time is used up."""
        with contextlib.ExitStack() as stack:
            base, head = (stack.enter_context(contextlib.closing(c.worker())) for c in (self.base, self.head))
            if not self.comparisons:
                self._choose(base, head)
            for comparison in self._progress(self.open, "setting up"):
                comparison.prepare(base, head)
            needed = rounds * sum(comparison.round_seconds for comparison in self.open)
            left = self.seconds - self.used_seconds
            if needed > left:
                rounds = int(rounds * left / needed)
            visits = [(number, c) for number in range(rounds) for c in self.open]
            for index, (number, comparison) in enumerate(self._progress(visits, f"{len(self.open)} benchmarks open")):
                if self.used_seconds > self.seconds and index % len(self.open) == 0:
                    break
                comparison.one_round(base, head, base_first=number % 2 == 0)
        for comparison in self.open:
            comparison.judge(self.rule)
        return needed <= left

    def _choose(self, base: Worker, head: Worker) -> None:
        base.tell("names")
        names = head.ask("names")
        base.hear()
        chosen = [name for name in names if any(re.search(pattern, name) for pattern in self.patterns)]
        if not chosen:
            raise CheckError("no benchmark matches")
        self.comparisons = [Comparison(name) for name in chosen]
        self.rule = replace(self.rule, tests=len(chosen))

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
        return sum(self.count(verdict) for verdict in (SLOWER, FASTER, EVEN))

    @property
    def status(self) -> int:
        """Exit status, unless Ctrl-C came."""
        if self.count(SLOWER):
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
            f"minimum effect {100 * self.rule.minimum_effect:g} %; all intervals of the table together hold with "
            f"{100 * (1 - FALSE_ALARM):g} % confidence on either side",
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
            "no verdict" if self.status == NO_VERDICT else f"{self.count(SLOWER)} of {len(self.comparisons)} slower"
        )
        lines = [f"### Benchmarks: {outcome}", "", self.summary(), ""]
        attention = [c for c in self.sorted() if c.verdict in (SLOWER, FAILED, OPEN)]
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
            "base": vars(self.base),
            "head": vars(self.head),
            "machine": describe(),
            "seconds": self.used_seconds,
            "minimum_effect": self.rule.minimum_effect,
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
    parser.add_argument("--seconds", type=float, default=1080, help="limit of the whole check (default: %(default)s)")
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
    rule = Rule(arguments.minimum_effect / 100, arguments.rounds)
    check = Check(base, head, arguments.bench or [""], rule, arguments.seconds, arguments.decided)
    interrupted = False
    try:
        check.run()
    except KeyboardInterrupt:
        interrupted = True
        for comparison in check.open:
            comparison.judge(check.rule)
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

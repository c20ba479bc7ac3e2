#!/usr/bin/env python3
"""Show how often scripts/check_regressions.py is right: a planted slow-down, and a commit against itself.

    python scripts/regression_experiment.py                  20 + 20 runs of the check, three quarters of an hour
    python scripts/regression_experiment.py --runs 3         a shorter one

In a copy of the repository, at its last commit, the forward kernel of the LSTM does the recurrent product of some steps
twice; of how many is found by measuring, so that the benchmarks become slower by the wanted share. The result of the
kernel stays the same. Then the check compares the slowed commit with its parent, and the parent with itself, by turns.
It has to find the slow-down at least 19 times of 20, and to find nothing on itself at least 19 times of 20. OUT
receives experiment.json after each run, and experiment.md.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

try:
    from _machine import describe
    from tqdm import tqdm
except ModuleNotFoundError as missing:
    sys.exit(f'{missing.name} is not installed for {sys.executable}; python -m pip install -e ".[bench]" installs it.')

ROOT = Path(__file__).resolve().parent.parent
KERNEL = Path("rnnkernels", "kernels", "passes.py")
BENCHMARKS = r"lstm\.Sequence\.time_(forward|inference)\((single-stream|char-rnn).* 1 thread"
REQUIRED_SHARE = 19 / 20
CALIBRATION_SECONDS = 100.0


@dataclass
class Run:
    """One run of the check."""

    status: int
    slower: list[str]
    ratios: dict[str, float]
    seconds: float

    @property
    def mean_ratio(self) -> float:
        """Geometric mean over the benchmarks."""
        return math.exp(sum(map(math.log, self.ratios.values())) / len(self.ratios))


@dataclass
class Experiment:
    """What was done, and what came out."""

    arguments: dict[str, Any]
    commit: str = ""
    machine: dict[str, Any] = field(default_factory=describe)
    repeated_share: float = 0.0
    """Share of the steps whose recurrent product is done twice."""
    measured: float = math.nan
    """Ratio of times that this causes, measured apart from the runs."""
    planted: list[Run] = field(default_factory=list)
    itself: list[Run] = field(default_factory=list)

    @property
    def found(self) -> int:
        """Runs that found the planted slow-down."""
        return sum(run.status == 1 for run in self.planted)

    @property
    def silent(self) -> int:
        """Runs that found nothing where there is nothing."""
        return sum(run.status == 0 for run in self.itself)

    @property
    def passed(self) -> bool:
        """Whether the check was right often enough."""
        runs = self.arguments["runs"]
        return min(self.found, self.silent) >= REQUIRED_SHARE * runs and len(self.itself) == runs

    def markdown(self) -> str:
        """Table and conditions."""
        lines = [
            "| comparison | runs | right | HEAD / BASE in the runs | seconds per run |",
            "| --- | --- | --- | --- | --- |",
        ]
        named = ("slow-down planted", self.planted, self.found), ("commit with itself", self.itself, self.silent)
        for name, runs, right in named:
            if runs:
                ratios = sorted(run.mean_ratio for run in runs)
                times = sorted(run.seconds for run in runs)
                lines.append(
                    f"| {name} | {len(runs)} | {right} | {ratios[0]:.3f} - {ratios[-1]:.3f} | "
                    f"{times[0]:.0f} - {times[-1]:.0f} |"
                )
        lines += [
            "",
            f"Commit {self.commit}; `{self.arguments['bench']}`; the recurrent product of "
            f"{100 * self.repeated_share:.0f} % of the steps done twice, which makes these benchmarks take "
            f"{self.measured:.3f} times as long; {self.machine['processor']}, {self.machine['cpus']} CPUs.",
        ]
        return "\n".join(lines) + "\n"


def slowed(source: str, percent: int) -> str:
    """Source of the passes with the recurrent product of `percent` % of the steps done twice.

    The repetition stands at the end of the loop over strips, where its output has been read for the last time.
    """
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef) and function.name == "forward_steps":
            for loop in ast.walk(function):
                if isinstance(loop, ast.For) and ast.unparse(loop.target) == "unit":
                    products = [ast.unparse(node) for node in ast.walk(loop) if isinstance(node, ast.Expr)]
                    product = next((text for text in products if text.startswith("recur(") and " row," in text), "")
                    if product:
                        lines = source.splitlines(keepends=True)
                        indent = " " * loop.body[0].col_offset
                        again = product.replace(" row,", " row + strip_column,")
                        condition = f"if biases == 1 and (begin + s) * {percent} % 100 < {percent}:"
                        lines.insert(loop.end_lineno or 0, f"{indent}{condition}\n{indent}    {again}\n")
                        return "".join(lines)
    sys.exit(f"{KERNEL} has no statement recur(...) in forward_steps: this experiment must follow it.")


class Copy:
    """A clone of the repository in which to plant."""

    def __init__(self, folder: Path, prefix: list[str], bench: str) -> None:
        self.folder, self.prefix, self.bench = folder, prefix, bench
        _run("git", "clone", "--quiet", str(ROOT), str(folder))
        self.commit = _run("git", "-C", str(folder), "rev-parse", "HEAD").strip()
        self._source = (folder / KERNEL).read_text(encoding="utf-8")

    def plant(self, percent: int) -> str:
        """Commit a slow-down; return the name of the commit."""
        _run("git", "-C", str(self.folder), "checkout", "--quiet", "--detach", self.commit)
        (self.folder / KERNEL).write_text(slowed(self._source, percent), encoding="utf-8")
        identity = ["-c", "user.name=experiment", "-c", "user.email=experiment@localhost"]
        message = f"{percent} % of the steps twice"
        _run(
            "git", "-C", str(self.folder), *identity, "commit", "--quiet", "--no-verify", "--all", "--message", message
        )
        return _run("git", "-C", str(self.folder), "rev-parse", "HEAD").strip()

    def check(self, head: str, seconds: float, *options: str) -> Run:
        """Run the check of the copy."""
        report = self.folder / "check.json"
        report.unlink(missing_ok=True)
        script = str(self.folder / "scripts" / "check_regressions.py")
        command = [sys.executable, script, self.commit, head, "--bench", self.bench, "--seconds", str(seconds)]
        command += ["--time-everything", "--decided", "0"]  # what counts is whether it flags something
        completed = subprocess.run(
            [*self.prefix, *command, "--json", str(report), *options], capture_output=True, text=True, check=False
        )
        if completed.returncode not in (0, 1) or not report.exists():
            sys.exit(f"{completed.stdout}{completed.stderr}The check ended with status {completed.returncode}.")
        found = json.loads(report.read_text(encoding="utf-8"))
        ratios = {c["name"]: c["interval"][1] for c in found["comparisons"] if c["base"]}
        if not ratios:
            sys.exit(f"{seconds:g} s are too short for a round: give more --seconds.")
        slower = [c["name"] for c in found["comparisons"] if c["verdict"] == "slower"]
        return Run(completed.returncode, slower, ratios, found["seconds"])

    def calibrate(self, wanted: float) -> tuple[str, float, float]:
        """Plant a slow-down of the wanted share; return the commit, the share of steps, and the ratio as measured."""
        percent = 100
        for _ in range(4):
            head = self.plant(percent)
            # A verdict that is hard to reach makes the check use its time.
            effect = 100 * wanted if percent < 100 else 50
            ratio = self.check(head, CALIBRATION_SECONDS, "--minimum-effect", str(effect)).mean_ratio
            tqdm.write(f"{percent} % of the steps twice: {ratio:.3f} times as long")
            if abs(ratio - 1 - wanted) <= 0.05 * wanted:
                break
            percent = min(max(round(percent * wanted / max(ratio - 1, 0.01)), 1), 100)
        return head, percent / 100, ratio


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="runs of either kind (default: %(default)s)")
    parser.add_argument("--slow-down", type=float, default=10, metavar="PERCENT", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="limit of a run (default: %(default)s)")
    parser.add_argument("--bench", metavar="PATTERN", default=BENCHMARKS, help="benchmarks (default: %(default)s)")
    parser.add_argument("--prefix", default="", help="words before each command, such as 'nice -n 5'")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="folder of the results (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Return 0 if the check was right often enough."""
    arguments = parse_arguments()
    experiment = Experiment({key: str(value) if key == "out" else value for key, value in vars(arguments).items()})
    arguments.out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        text = json.dumps(asdict(experiment), indent=1)
        (arguments.out / "experiment.json").write_text(text, encoding="utf-8")
        (arguments.out / "experiment.md").write_text(experiment.markdown(), encoding="utf-8")

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        copy = Copy(Path(scratch) / "rnnkernels", shlex.split(arguments.prefix), arguments.bench)
        experiment.commit = copy.commit[:10]
        slow, experiment.repeated_share, experiment.measured = copy.calibrate(arguments.slow_down / 100)
        for _ in tqdm(range(arguments.runs), "runs", disable=None):
            for head, runs in ((slow, experiment.planted), (copy.commit, experiment.itself)):
                runs.append(copy.check(head, arguments.seconds))
                save()
    print(experiment.markdown())
    verdict = "was right often enough" if experiment.passed else "was NOT right often enough"
    print(f"The check {verdict}; {time.perf_counter() - began:.0f} s.")
    return 0 if experiment.passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

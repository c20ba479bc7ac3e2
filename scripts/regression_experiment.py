#!/usr/bin/env python3
"""Show how often scripts/check_regressions.py is right: kernels slowed down in turn, and a commit against itself.

    python scripts/regression_experiment.py                             all kernels, and 20 runs against itself: hours
    python scripts/regression_experiment.py --kernels lstm --itself 3   some of them

In a copy of the repository, at its last commit, one kernel after the other gets slower: at its end it waits until a
tenth more time has gone by since its beginning (``--slow-down``). Its results stay the same. The check compares the
slowed commit with its parent, with its default arguments; between these runs it compares the parent with itself, and
times what has the same code, too. It has to find the slow-down at least 19 times of 20, and to find nothing on itself
at least 19 times of 20, and to decide 95 % of the benchmarks then. Each slowed commit compiles anew what is made of the
module of the slowed kernel; that of a pass is copied for the module of the cell whose pass it is, and others keep the
one that there is. With ``--busy 2`` two other processes are busy meanwhile. OUT receives experiment.json after each
run, and experiment.md.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

try:
    from _machine import describe
    from tqdm import tqdm
except ModuleNotFoundError as missing:
    sys.exit(f'{missing.name} is not installed for {sys.executable}; python -m pip install -e ".[bench]" installs it.')

ROOT = Path(__file__).resolve().parent.parent
KERNELS_FOLDER = Path("rnnkernels", "kernels")
REQUIRED_SHARE = 19 / 20
REQUIRED_DECIDED = 0.95


class Kernel(NamedTuple):
    """A kernel that can be slowed down."""

    name: str
    file: str
    function: str
    condition: str = "True"
    """In the terms of a pass, for which cells."""
    user: str = ""
    """The module for which a copy of `file` is slowed down; without it, the file itself is."""


CELLS = {
    "rnn": "GATES == 1",
    "lstm": "GATES == 4 and OWN == 0",
    "gru": "GATES == 3 and OWN == 0 and LATE == 0",
    "gru_reset_before": "LATE > 0",
}
PASSES = {"forward": "sequence_forward", "backward": "sequence_backward", "stream": "stream_forward"}
KERNELS = [
    *[
        Kernel(f"{cell}_{name}", "passes.py", function, condition, f"{cell.partition('_')[0]}.py")
        for cell, condition in CELLS.items()
        for name, function in PASSES.items()
    ],
    Kernel("sigmoid", "activations.py", "sigmoid_of_array"),
    Kernel("affine_forward", "affine.py", "affine_forward"),
    Kernel("affine_accumulate", "affine.py", "affine_accumulate"),
    Kernel("softmax_loss", "loss.py", "softmax_loss"),
    Kernel("affine_scores", "loss.py", "affine_scores"),
    Kernel("accumulate_affine_gradients", "loss.py", "accumulate_affine_gradients"),
    Kernel("word_embedding_lookup", "embedding.py", "word_embedding_lookup"),
    Kernel("word_embedding_sum", "embedding.py", "word_embedding_sum"),
    Kernel("word_embedding_gather", "embedding.py", "word_embedding_gather"),
    Kernel("word_embedding_scatter", "embedding.py", "word_embedding_scatter"),
]


@dataclass
class Run:
    """One run of the check."""

    kernel: str
    """That was slowed down; none if it is empty."""
    status: int
    slower: dict[str, float]
    """Ratios of what was called slower."""
    decided: float
    """Share of the benchmarks that have a verdict."""
    seconds: float


@dataclass
class Experiment:
    """What was done, and what came out."""

    arguments: dict[str, Any]
    commit: str = ""
    machine: dict[str, Any] = field(default_factory=describe)
    planted: list[Run] = field(default_factory=list)
    itself: list[Run] = field(default_factory=list)

    @property
    def found(self) -> int:
        """Runs that found the slow-down."""
        return sum(run.status == 1 for run in self.planted)

    @property
    def silent(self) -> int:
        """Runs that found nothing where there is nothing."""
        return sum(not run.slower for run in self.itself)

    @property
    def decided(self) -> int:
        """Those of them that decided enough benchmarks."""
        return sum(run.decided >= REQUIRED_DECIDED for run in self.itself)

    @property
    def passed(self) -> bool:
        """Whether the check was right often enough."""
        right = (self.found, self.planted), (self.silent, self.itself), (self.decided, self.itself)
        return all(count >= REQUIRED_SHARE * len(runs) for count, runs in right)

    def markdown(self) -> str:
        """Table and conditions."""
        lines = [
            "| slowed down | status | slower | HEAD / BASE of these | decided | seconds |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for run in (*self.planted, *self.itself):
            ratios = sorted(run.slower.values())
            between = f"{ratios[0]:.2f} - {ratios[-1]:.2f}" if ratios else ""
            lines.append(
                f"| {run.kernel or '(itself)'} | {run.status} | {len(ratios)} | {between} | {run.decided:.0%} | "
                f"{run.seconds:.0f} |"
            )
        lines += [
            "",
            f"{self.found} of {len(self.planted)} kernels found that were {self.arguments['slow_down']:g} % slower; "
            f"{self.silent} of {len(self.itself)} runs of a commit against itself flagged nothing, and {self.decided} "
            f"decided at least {REQUIRED_DECIDED:.0%} of the benchmarks.",
            f"Commit {self.commit}; {self.machine['processor']}, {self.machine['cpus']} CPUs, "
            f"{self.arguments['busy']} busy processes beside it.",
        ]
        return "\n".join(lines) + "\n"


def slowed(source: str, kernel: Kernel, percent: float) -> str:
    """Source of a module of kernels in which one of them takes `percent` % longer."""
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef) and function.name == kernel.function:
            first = function.body[1]  # after the docstring
            lines = source.splitlines(keepends=True)
            share = round(100 * percent)
            end = f"""    if {kernel.condition}:
        planted_until = planted_begin + (planted_clock() - planted_begin) * {10000 + share} // 10000
        while planted_clock() < planted_until:
            pass
"""
            begin = f"""    planted_begin = 0
    if {kernel.condition}:
        planted_begin = planted_clock()
"""
            last = function.body[-1]
            lines.insert(last.lineno - 1 if isinstance(last, ast.Return) else function.end_lineno or 0, end)
            lines.insert(first.lineno - 1, begin)
            imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
            lines.insert(imports[-1].end_lineno or 0, "from rnnkernels.kernels.trace import clock as planted_clock\n")
            return "".join(lines)
    sys.exit(f"{kernel.file} has no function {kernel.function}: this experiment must follow it.")


def with_copy(source: str, kernel: Kernel, copy: str) -> str:
    """Source of the module that uses a kernel, with another module in the place of that of the kernel."""
    package = KERNELS_FOLDER.as_posix().replace("/", ".")
    module = f"from {package}.{Path(kernel.file).stem} import "
    if source.count(module) != 1:
        sys.exit(f"{kernel.user} does not import from {kernel.file}: this experiment must follow it.")
    return source.replace(module, f"from {package}.{copy} import ")


class Copy:
    """A clone of the repository in which to plant."""

    def __init__(self, folder: Path, prefix: list[str], options: list[str]) -> None:
        self.folder, self.prefix, self.options = folder, prefix, options
        _run("git", "clone", "--quiet", str(ROOT), str(folder))
        self.commit = _run("git", "-C", str(folder), "rev-parse", "HEAD").strip()

    def plant(self, kernel: Kernel, percent: float) -> str:
        """Commit a slow-down; return the name of the commit."""
        _run("git", "-C", str(self.folder), "checkout", "--quiet", "--detach", self.commit)
        kernels = self.folder / KERNELS_FOLDER
        path, source = kernels / kernel.file, (kernels / kernel.file).read_text(encoding="utf-8")
        if kernel.user:
            path = path.with_stem(f"slowed_{path.stem}")
            users = kernels / kernel.user
            users.write_text(with_copy(users.read_text(encoding="utf-8"), kernel, path.stem), encoding="utf-8")
        path.write_text(slowed(source, kernel, percent), encoding="utf-8")
        _run("git", "-C", str(self.folder), "add", "--all", str(KERNELS_FOLDER))
        identity = ["-c", "user.name=experiment", "-c", "user.email=experiment@localhost"]
        _run(
            "git", "-C", str(self.folder), *identity, "commit", "--quiet", "--no-verify", "--all", "--message",
            f"{kernel.name} takes {percent:g} % longer",
        )  # fmt: skip
        return _run("git", "-C", str(self.folder), "rev-parse", "HEAD").strip()

    def check(self, head: str, kernel: str, *options: str) -> Run:
        """Run the check of the copy; `kernel` is what was slowed down."""
        report = self.folder / "check.json"
        report.unlink(missing_ok=True)
        script = str(self.folder / "scripts" / "check_regressions.py")
        command = [sys.executable, script, self.commit, head, "--json", str(report), *self.options, *options]
        began = time.perf_counter()
        completed = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False)
        if completed.returncode not in (0, 1, 3) or not report.exists():
            sys.exit(f"{completed.stdout}{completed.stderr}The check ended with status {completed.returncode}.")
        comparisons = json.loads(report.read_text(encoding="utf-8"))["comparisons"]
        slower = {c["name"]: c["interval"][1] for c in comparisons if c["verdict"].startswith("slower")}
        verdicts = [c["verdict"] for c in comparisons]
        decided = 1 - verdicts.count("open") / max(len(verdicts), 1)
        return Run(kernel, completed.returncode, slower, decided, time.perf_counter() - began)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processes busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", default="", metavar="PATTERN", help="regular expression of kernels to slow down")
    parser.add_argument("--list", action="store_true", help="show the kernels and do nothing")
    parser.add_argument("--itself", type=int, default=20, help="runs of a commit against itself (default: %(default)s)")
    parser.add_argument("--slow-down", type=float, default=10, metavar="PERCENT", help="(default: %(default)s)")
    parser.add_argument("--busy", type=int, default=0, help="busy processes beside it (default: %(default)s)")
    parser.add_argument("--bench", metavar="PATTERN", default="", help="regular expression of benchmarks")
    parser.add_argument("--prefix", default="", help="words before each command, such as 'nice -n 5'")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="folder of the results (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Return 0 if the check was right often enough."""
    arguments = parse_arguments()
    kernels = [kernel for kernel in KERNELS if re.search(arguments.kernels, kernel.name)]
    if arguments.list:
        print(*[kernel.name for kernel in kernels], sep="\n")
        return 0
    experiment = Experiment({key: str(value) if key == "out" else value for key, value in vars(arguments).items()})
    arguments.out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        text = json.dumps(asdict(experiment), indent=1)
        (arguments.out / "experiment.json").write_text(text, encoding="utf-8")
        (arguments.out / "experiment.md").write_text(experiment.markdown(), encoding="utf-8")

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, busy_processes(arguments.busy):
        bench = ["--bench", arguments.bench] if arguments.bench else []
        copy = Copy(Path(scratch) / "rnnkernels", shlex.split(arguments.prefix), bench)
        experiment.commit = copy.commit[:10]
        pairs = itertools.zip_longest(kernels, range(arguments.itself))
        for kernel, number in tqdm(list(pairs), "runs", disable=None):
            if kernel is not None:
                head = copy.plant(kernel, arguments.slow_down)
                experiment.planted.append(copy.check(head, kernel.name))
                save()
            if number is not None:
                experiment.itself.append(copy.check(copy.commit, "", "--time-everything"))
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

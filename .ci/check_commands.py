#!/usr/bin/env python3
"""Run every documented command in a fresh environment that has only the extra which it needs.

    python .ci/check_commands.py             all but those of the extra `peers`, which are large
    python .ci/check_commands.py --all       those, too
    python .ci/check_commands.py asv         commands that a regular expression finds
    python .ci/check_commands.py --list      what would run

Commands are found in the documents, in code blocks and in inline code, and in the docstrings of scripts. `TABLE` says
how each of them runs; one that is not in it, or that is in it and in no document, is an error, as is another extra than
the one that the text around it names. Each extra has a copy of the working tree, as a repository of two commits, with
an environment in it that the documented commands themselves make; machine code of the kernels is copied, too. As many
extras as there are processors have their turn at once. Exit status: 0 if all is well, 1 if not, 130 after Ctrl-C.
"""

import argparse
import array
import ast
import contextlib
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "asv_bench/README.md")
PROGRAMS = "python|pip|asv|mypy|pre-commit|pytest|ruff"
LARGE = ("peers",)
TIMEOUT_SECONDS = 900.0
ASV = "--config asv_bench/asv.conf.json"
FEW = "--bench 'activations.*float32.*1 thread'"
"""Benchmarks that need few kernels: asv and check_regressions.py compile in folders of their own."""

SCRIPT = "import rnnkernels\nrnnkernels.lstm_forward([[[1.0]]], [[0.0]], [[0.0] * 4], [[0.0] * 4], [0.0] * 4)\n"
"""A script to profile."""

_NPY_FACTS = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 16), }"
NPY_HEADER = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + _NPY_FACTS.ljust(117) + b"\n"
"""Of a file with a sequence (1000, 16) of float32; the Python that runs the check need not have NumPy."""

BRIEF = "--max-chars 300000 --sample-chars 50"
SHORT = "--quick --steps 100 --warm-up 20 --forecast 50"


@dataclass(frozen=True)
class Row:
    """How a documented command runs."""

    extra: str
    """The extra in its environment; empty for the package alone."""
    command: str
    """As documented."""
    run: str = ""
    """What runs instead: in full, or from a `+` on what is added to the command."""
    statuses: tuple[int, ...] = (0,)
    """Exit statuses that are as they should be."""
    until: str = ""
    """What it prints before it is ended by Ctrl-C, since it would run for ever."""
    sets_up: bool = False
    """Makes the environment, and therefore runs whatever the pattern is."""

    @property
    def words(self) -> list[str]:
        """What runs."""
        run = self.run or "+"
        return shlex.split(self.command + run[1:] if run.startswith("+") else run)


TABLE = [
    # Benchmarks, which take longest and so begin
    Row("bench", 'python -m pip install -e ".[bench]"', sets_up=True),
    Row("bench", f"asv machine --yes {ASV}", sets_up=True),
    Row("bench", f'asv run {ASV} "HEAD^!"', f"+ --quick {FEW}"),
    Row("bench", f"asv continuous {ASV} main HEAD", f"+ --quick {FEW}", statuses=(0, 1)),
    Row("bench", f"asv publish {ASV}"),
    Row("bench", f"asv preview {ASV}", until="Serving at"),
    Row(
        "bench",
        f'asv run {ASV} --python=same --quick --show-stderr --bench "float32|Startup"',
        f"asv run {ASV} --python=same --quick --show-stderr {FEW}",
    ),
    Row("bench", "python scripts/check_regressions.py main", f"+ {FEW}"),
    Row("bench", "python scripts/check_regressions.py v0.1.0 main", f"+ {FEW}"),
    Row(
        "bench",
        'python scripts/check_regressions.py main --bench "lstm.*char-rnn"',
        f"python scripts/check_regressions.py main --time-everything --seconds 20 {FEW}",
        statuses=(0, 1, 3),
    ),
    Row("bench", "python scripts/regression_experiment.py", "+ --help"),
    Row("bench", "python scripts/regression_experiment.py --kernels lstm --itself 3", "+ --list"),
    # Training
    Row("train", "python scripts/demo", f"+ --seconds 4 {BRIEF}", sets_up=True),
    Row("train", "python scripts/demo --resume --seconds 600", "+ --seconds 6"),
    Row("train", "python scripts/demo --text FILE --cell rnn --hidden 512 --out other", f"+ --seconds 2 {BRIEF}"),
    Row("train", "python scripts/demo --layers 2 --cell gru --dropout 0.2 --out stack", f"+ --seconds 2 {BRIEF}"),
    Row("train", "python scripts/train_char_lm.py", f"+ --seconds 2 --out script {BRIEF}"),
    Row("train", "python scripts/train_char_lm.py --resume --seconds 600", "+ --seconds 4 --out script"),
    Row("train", "python scripts/train_char_lm.py --text FILE --cell rnn", f"+ --seconds 2 --out rnn {BRIEF}"),
    Row(
        "train",
        "python scripts/train_char_lm.py --layers 2 --cell gru --dropout 0.2",
        f"+ --seconds 2 --out gru {BRIEF}",
    ),
    Row("train", "python scripts/forecast_series.py", "+ --quick"),
    Row("train", "python scripts/forecast_series.py --quick"),
    Row(
        "train",
        "python scripts/forecast_series.py --quick --system oscillators --cell gru --layers 2",
        "+ --steps 200 --out springs",
    ),
    Row("train", "python scripts/forecast_series.py --data FILE.npy --checkpoint-every 16", f"+ {SHORT} --out data"),
    Row(
        "train",
        "python scripts/forecast_series.py --data FILE.npy --window 200 --checkpoint-every 16",
        f"+ {SHORT} --window 50 --out mine",
    ),
    # Small calls: that one of them is slow is a finding, not a failure of the command
    Row("train", "python scripts/compare_small_calls.py", "+ --functions sigmoid --rounds 5", statuses=(0, 1)),
    Row("train", "python scripts/compare_small_calls.py --quick", "+ --dtypes float32 --rounds 5", statuses=(0, 1)),
    Row("train", 'python scripts/compare_small_calls.py --functions "lstm_step.*32"', "+ --rounds 5", statuses=(0, 1)),
    Row("train", "python scripts/compare_small_calls.py --plot small_calls.png", "+ --quick --tables mixed", (0, 1)),
    # Tests: all of them are what .ci/run begins with
    Row("test", "python scripts/test tests/test_results.py", sets_up=True),
    Row("test", "python scripts/test", "+ tests/test_results.py"),
    Row("test", 'python scripts/test -m "not slow"', "+ --collect-only --quiet"),
    Row("test", "RNNKERNELS_TEST_ALL_VALUES=1 python scripts/test tests/test_activations.py", "+ --collect-only"),
    Row("test", "RNNKERNELS_DRAWN_CASES=10000 python scripts/test tests/test_drawn_cases.py", "+ --collect-only -q"),
    Row("test", 'python -m pip install -e ".[test]"'),
    Row("test", "ruff format --check ."),
    Row("test", "ruff check ."),
    Row("test", "mypy"),
    Row("test", "pytest", "+ tests/test_results.py"),
    Row("test", "python -m pip install pre-commit"),
    Row("test", "pre-commit install"),
    # Profiles
    Row("profile", 'python -m pip install -e ".[profile]"', sets_up=True),
    Row("profile", "python scripts/profile_long_sequence.py", "+ --lengths 1e2,1e3"),
    Row("profile", "python scripts/profile_long_sequence.py --threads 1", "+ --lengths 1e2,1e3 --html page.html"),
    Row("profile", "python scripts/profile_long_sequence.py --training --lengths 1e3,1e5", "+ --lengths 1e2,1e4"),
    Row("profile", "python scripts/profile_long_sequence.py --input FILE.npy --hidden 128"),
    Row("profile", "python scripts/profile_long_sequence.py --input FILE.npy --hidden 128 --training"),
    # The package alone
    Row("", "pip install .", sets_up=True),
    Row("", "python -m rnnkernels"),
    Row("", "python -m rnnkernels --json"),
    Row("", "python -m rnnkernels compile"),
    Row("", "python -m rnnkernels profile SCRIPT.py"),
    Row("", 'pip install ".[train]"', "+ --dry-run"),
    Row("", "python .ci/check_commands.py", "+ --list"),
    # Peers
    Row("peers", 'python -m pip install -e ".[peers]"', sets_up=True),
    Row("peers", "python scripts/compare_peers.py --quick", "+ --points 'training float32 50,50' --without-own"),
    Row("peers", "python scripts/compare_peers.py --show out/peers.json"),
    Row("peers", "python scripts/compare_peers.py", "+ --list"),
    Row("peers", "python scripts/compare_peers.py --rounds 5 --seconds 0.7", "+ --quick --points 'training.*50,50'"),
    Row("peers", 'python scripts/compare_peers.py --points "training.*50,50"', "+ --quick --without-own"),
]


@dataclass(frozen=True)
class Documented:
    """A command where it is documented."""

    place: str
    command: str
    extra: str | None
    """The extra that the text around it names; None if it names none."""


def in_markdown(place: str, text: str) -> Iterator[Documented]:
    """Commands of code blocks, and of inline code in text and tables."""
    extra = None
    text = re.sub(r"^```(?:python|pycon)\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```[^\n]*\n(.*?)^```$", lambda found: _indented(found[1]), text, flags=re.DOTALL | re.MULTILINE)
    for block in re.split(r"\n(?:[ \t]*\n)+", text):
        if block.startswith("#"):
            extra = None
            continue
        commands: list[tuple[str, str | None]] = []
        if block.startswith("    "):
            commands += [(re.sub(r"\s+#.*", "", line).strip(), None) for line in block.splitlines()]
        else:
            lines = block.splitlines() if block.startswith("|") else [" ".join(block.split("\n"))]
            commands += [
                (command.replace(r"\|", "|"), _extra_of_row(line))
                for line in lines
                for command in re.findall("`([^`]+)`", line)
                if re.match(rf"(\w+=\S* )*({PROGRAMS})( |$)", command) and command != "python"
            ]
        for command, named in commands:
            installed = re.search(r'pip install -e "\.\[(\w+)\]"', command)
            extra = installed[1] if installed else extra
            yield Documented(place, command, named or extra)


def _indented(code: str) -> str:
    return "\n" + "".join(f"    {line.removeprefix('$ ')}\n" for line in code.splitlines())


def _extra_of_row(line: str) -> str | None:
    """The last cell of a row of a table, if it is a word of code."""
    found = re.search(r"\| `(\w+)` \|$", line)
    return found[1] if found and found[1] in {row.extra for row in TABLE} else None


def in_script(place: str, text: str) -> Iterator[Documented]:
    """Commands in the docstring of a script; two spaces or more part them from what they do."""
    named = re.search(r'pip install -e "\.\[(\w+)\]"', text)
    for line in (ast.get_docstring(ast.parse(text), clean=False) or "").splitlines():
        if re.match(rf"    ({PROGRAMS}) ", line):
            yield Documented(place, re.split(r"  +", line.strip())[0], named[1] if named else None)


def documented() -> list[Documented]:
    """All documented commands, in the order of the documents."""
    found: list[Documented] = []
    for name in DOCUMENTS:
        found += in_markdown(name, (ROOT / name).read_text(encoding="utf-8"))
    for path in sorted((ROOT / "scripts").iterdir()):
        if path.is_file() and not path.name.startswith("_"):
            found += in_script(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    return found


def disagreements(found: list[Documented], table: list[Row]) -> list[str]:
    """What documents and table say differently."""
    rows = {row.command: row for row in table}
    commands = {one.command for one in found}
    faults = [f"{row.command}: in TABLE, but not documented" for row in table if row.command not in commands]
    for one in found:
        row = rows.get(one.command)
        if row is None:
            faults.append(f"{one.command}: documented in {one.place}, but not in TABLE")
        elif row.extra and one.extra not in (None, row.extra):
            faults.append(f"{one.command}: {one.place} names the extra {one.extra!r}, TABLE {row.extra!r}")
    return faults


class Runner:
    """Runs the rows of each extra in a copy of the working tree of its own."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, extra: str, rows: list[Row]) -> list[str]:
        """Run rows of one extra, one after the other; return those that went wrong."""
        folder = self._scratch / (extra or "package")
        try:
            return self._run(extra, rows, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, extra: str, rows: list[Row], folder: Path) -> list[str]:
        copy_tree(folder)
        environment = environment_for(folder)
        if not extra:
            environment["PYTHONSAFEPATH"] = "1"  # what is installed, not the copy
        if "scripts/" not in rows[0].command:  # scripts that set up make an environment themselves
            subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
        faults, done = [], set()
        for row in rows:
            words = tuple(row.words)
            if words in done:
                say(f"  as above  {extra or '-':<8} {row.command}")
                continue
            done.add(words)
            began = time.perf_counter()
            fault = self._run_row(row, folder, environment)
            if self._stopped:
                break
            verdict = "" if fault is None else "  FAILED: " + fault
            say(f"{time.perf_counter() - began:8.1f} s  {extra or '-':<8} {shlex.join(words)}{verdict}")
            if fault is not None:
                faults.append(row.command)
                if row.sets_up:
                    break
            if row.sets_up and not extra:  # others are installed as editable
                copy_machine_code(folder)
        return faults

    def _run_row(self, row: Row, folder: Path, environment: dict[str, str]) -> str | None:
        """What went wrong, with the end of the output; None if nothing did."""
        words, variables = row.words, {}
        while "=" in words[0]:
            name, _, variables[name] = words.pop(0).partition("=")
        program = shutil.which(words[0], path=environment["PATH"])
        if words[0] == "python" and not (folder / ".venv").exists():
            program = sys.executable
        if program is None:
            return f"there is no {words[0]}"
        log = folder / "output.log"
        with log.open("wb") as output:
            process = self._start([program, *words[1:]], folder, environment | variables, output)
        end = time.monotonic() + TIMEOUT_SECONDS
        try:
            if row.until:
                while row.until not in log.read_text(errors="replace"):
                    if process.poll() is not None or time.monotonic() > end:
                        return f"it did not print {row.until!r}\n{_tail(log)}"
                    time.sleep(0.1)
                os.killpg(process.pid, signal.SIGINT)
            status = process.wait(end - time.monotonic())
        except subprocess.TimeoutExpired:
            return f"no end within {TIMEOUT_SECONDS:.0f} s\n{_tail(log)}"
        finally:
            self._end(process)
        return None if status in row.statuses else f"exit status {status}\n{_tail(log)}"

    def _start(
        self, words: list[str], folder: Path, environment: dict[str, str], output: BinaryIO
    ) -> "subprocess.Popen[bytes]":
        """Start a command in a process group of its own, unless all is to end."""
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                words,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
        return process

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """End what a command has left running."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with self._lock:
            self._running.discard(process)

    def stop(self) -> None:
        """End everything."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)


def _tail(log: Path) -> str:
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-40:])


def copy_tree(folder: Path) -> None:
    """Copy the working tree to a repository with a commit `main`, tagged, and an empty one on top of it.

    Beside it lie the files that documented commands are about.
    """
    git = ("git", "-c", "user.name=check", "-c", "user.email=check@localhost", "-c", "commit.gpgsign=false")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (
        "init --quiet --initial-branch=main",
        "add --all",
        "commit --quiet --message tree",
        "tag v0.1.0",
        "switch --quiet --create work",
        "commit --quiet --allow-empty --message work",
    ):
        subprocess.run([*git, *command.split()], cwd=folder, check=True)
    (folder / "FILE").write_bytes((ROOT / "README.md").read_bytes())
    series = array.array("f", (math.sin(0.01 * t * (10 + d)) for t in range(1000) for d in range(16)))
    if sys.byteorder == "big":
        series.byteswap()
    (folder / "FILE.npy").write_bytes(NPY_HEADER + series.tobytes())
    (folder / "SCRIPT.py").write_text(SCRIPT, encoding="utf-8")
    (folder / ".git" / "info" / "exclude").write_text("FILE*\nSCRIPT.py\noutput.log\n", encoding="utf-8")
    copy_machine_code(folder)


def copy_machine_code(folder: Path) -> None:
    """Give machine code of the kernels, if there is any, to the package in a copy, and to the one that is installed."""
    for kernels in (folder / "rnnkernels" / "kernels", *folder.glob(".venv/lib/*/site-packages/rnnkernels/kernels")):
        (kernels / "__pycache__").mkdir(exist_ok=True)
        for file in (ROOT / "rnnkernels" / "kernels" / "__pycache__").glob("*.nbc"):
            shutil.copy2(file, kernels / "__pycache__")


def environment_for(folder: Path) -> dict[str, str]:
    """Variables for processes in the environment of a folder, and in no other one."""
    dropped = ("RNNKERNELS_", "NUMBA_", "PYTHON", "VIRTUAL_ENV")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return variables | {
        "PATH": os.pathsep.join([str(folder / ".venv" / "bin"), variables["PATH"]]),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def say(message: str) -> None:
    """Print at once, also into a pipe."""
    print(message, flush=True)


def main() -> int:
    """Return the exit status."""
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="regular expression of commands")
    parser.add_argument("--all", action="store_true", help="commands of large extras, too")
    parser.add_argument("--list", action="store_true", help="show what would run")
    options = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):  # the first also where a shell has started this in the background
        signal.signal(ending, signal.default_int_handler)

    faults = disagreements(documented(), TABLE)
    for fault in faults:
        say(fault)
    groups: dict[str, list[Row]] = {}
    for row in TABLE:
        if options.all or row.extra not in LARGE:
            groups.setdefault(row.extra, []).append(row)
    chosen = {
        extra: [row for row in rows if row.sets_up or re.search(options.pattern, row.command)]
        for extra, rows in groups.items()
        if any(re.search(options.pattern, row.command) for row in rows)
    }
    if options.list:
        for extra, rows in chosen.items():
            for row in rows:
                say(f"{extra or '-':<8} {row.command}\n{'':<8}   {shlex.join(row.words)}")
        return 1 if faults else 0

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rnnkernels-commands-", ignore_cleanup_errors=True) as scratch:
        runner = Runner(Path(scratch))
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            try:
                futures = [threads.submit(runner.run, extra, rows) for extra, rows in chosen.items()]
                for future in as_completed(futures):
                    faults += future.result()
            except BaseException:
                runner.stop()
                threads.shutdown(cancel_futures=True)
                raise
    count = sum(map(len, chosen.values()))
    busy = sum(os.times()[2:4])
    seconds = time.perf_counter() - began
    say(f"{count} documented commands in {len(chosen)} environments: {seconds:.0f} s, {busy:.0f} s of processors.")
    for fault in faults:
        say(f"FAILED: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("\nInterrupted.")
        sys.exit(130)

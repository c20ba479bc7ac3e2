"""The script that judges commits, on rounds that are made up: exit status and reports."""

import ast
import json
import math
import re
import runpy
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import check_regressions
from check_regressions import FAILED, NEW, OPEN, ROOT, SAME, Commit, Comparison, GitError

SCRIPT = ROOT / "scripts" / "check_regressions.py"


def measured(ratio, noise=0.001):
    """A benchmark with rounds about a ratio."""
    base = np.random.default_rng(1).normal(1e-3, noise * 1e-3, 40)
    return Comparison(f"about {ratio}", base=[*base], head=[*(ratio * base[::-1])])


@pytest.fixture
def main(monkeypatch):
    """The script's main on commits that exist and on benchmarks as given, or on an exception."""

    def run_main(outcome, *options):
        def run(check):
            if isinstance(outcome, BaseException):
                raise outcome
            check.comparisons = outcome
            check.judge()

        monkeypatch.setattr(check_regressions.Check, "run", run)
        monkeypatch.setattr(check_regressions, "find_commit", lambda name: Commit(name, "0" * 40))
        return check_regressions.main(["main", "HEAD", *options])

    return run_main


def open_ones(number):
    return [Comparison(f"open {i}") for i in range(number)]


def same_ones(number):
    return [Comparison(f"same {i}", SAME) for i in range(number)]


@pytest.mark.parametrize(
    ("comparisons", "status"),
    [
        ([measured(1.0), measured(0.8)], 0),
        ([measured(1.0), measured(1.2)], 1),
        ([measured(1.2), Comparison("b", FAILED)], 1),
        ([measured(1.2), *open_ones(99)], 1),
        ([measured(1.2), *same_ones(99)], 1),
        (same_ones(9), 0),
        ([*same_ones(9), *open_ones(1)], 0),
        ([*same_ones(8), *open_ones(1)], 3),
        ([*same_ones(1), Comparison("b", FAILED)], 2),
        ([measured(1.0), Comparison("b", FAILED)], 2),
        ([Comparison("b", FAILED), *open_ones(99)], 2),
        ([measured(1.0), Comparison("b", NEW)], 0),
        ([Comparison("b", NEW)], 3),
        ([*(measured(1.0) for _ in range(9)), *open_ones(1)], 0),
        ([*(measured(1.0) for _ in range(8)), *open_ones(1)], 3),
        ([measured(1.05, noise=0.1)], 3),
    ],
)
def test_exit_status__is_that_of_the_verdicts(main, comparisons, status):
    assert main(comparisons) == status


def test_kinds__that_are_slower_together_are_no_open_question(capsys):
    """Rounds of two looks each, which tell nothing for a single benchmark."""
    rng = np.random.default_rng(0)
    check = check_regressions.Check(*[Commit(name, "0" * 40) for name in ("main", "HEAD")], [""], 0.05, 640, 270, 90)
    check.comparisons = [Comparison(f"a.time_it({i})", different=["kernel", "a.py"]) for i in range(20)]
    check.comparisons += [Comparison(f"b.time_it({i})", different=["kernel"]) for i in range(20)]
    check.kinds = check_regressions.Kind.of(check.comparisons)
    for _ in range(2):
        for number, comparison in enumerate(check.comparisons):
            comparison.base += [1.0] * 6
            comparison.head += [*np.exp(0.05 * rng.standard_t(3, 6) + np.log(1.07 if number < 20 else 1.0))]
        check.judge()
    assert [kind.is_slower for kind in check.kinds] == [True, False]
    verdicts = [comparison.verdict for comparison in check.comparisons]
    assert verdicts[:20].count(check_regressions.TOGETHER) > 10
    assert check_regressions.TOGETHER not in verdicts[20:]
    assert check.status == 1
    assert "a.time_it: 20 benchmarks, which differ in kernel, are slower as a kind; HEAD / BASE 1.0" in check.summary()
    assert check.summary().count("as a kind") == 1
    assert [kind["slower"] for kind in json.loads(json.dumps(check.record(), allow_nan=False))["kinds"]] == [
        True,
        False,
    ]


def test_kinds__are_of_the_same_calls_and_kernels():
    differences = [["k"], ["k", "x.py"], ["other"], []]
    comparisons = [Comparison(f"{name}({i})", different=d) for name in "ab" for d in differences for i in range(2)]
    kinds = check_regressions.Kind.of(comparisons)
    assert [(kind.name, kind.kernels, len(kind.members)) for kind in kinds] == [("a", ("k",), 4), ("b", ("k",), 4)]


def test_no_verdict__says_how_many_are_open(main, tmp_path, capsys):
    report = tmp_path / "report.md"
    benchmarks = [measured(1.0), *open_ones(2)]
    assert main(benchmarks, "--markdown", str(report)) == 3
    for text in (capsys.readouterr().out, report.read_text(encoding="utf-8")):
        assert "No verdict: 2 of 3 benchmarks are open, and 90 % have to be decided" in text
    assert "### Benchmarks: no verdict" in report.read_text(encoding="utf-8")
    assert main(benchmarks, "--decided", "30") == 0
    assert "No verdict" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [
        (check_regressions.CheckError("no benchmark matches"), 2, "no benchmark matches"),
        (check_regressions.WorkerError("ImportError: x"), 2, "ImportError: x"),
        (OSError(28, "No space left on device"), 2, "No space left"),
        (ZeroDivisionError("a mistake"), 2, "Traceback"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_status__tells_a_check_that_cannot_run_from_a_slower_commit(main, capsys, outcome, status, words):
    assert main(outcome) == status
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("comparisons", "words"),
    [([], "Nothing was measured."), ([measured(1.2)], "1 slower by more than the minimum effect")],
)
def test_ctrl_c__shows_what_there_is(monkeypatch, capsys, comparisons, words):
    def interrupted(check):
        check.comparisons = comparisons
        raise KeyboardInterrupt

    monkeypatch.setattr(check_regressions, "find_commit", lambda name: Commit(name, "0" * 40))
    monkeypatch.setattr(check_regressions.Check, "run", interrupted)
    assert check_regressions.main(["main", "HEAD"]) == 130
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--markdown", "--json"])
def test_report__that_cannot_be_written_is_named_before_anything_runs(main, tmp_path, capsys, option):
    never = AssertionError("it has run")
    for path in (tmp_path, tmp_path / "missing" / "report"):
        assert main(never, option, str(path)) == 2
        complaint = capsys.readouterr().err
        assert complaint.startswith(f"{option} {path} cannot be written: ")
        assert "Traceback" not in complaint


def test_report__of_an_earlier_run_survives_a_check_that_cannot_run(main, tmp_path):
    old, new = tmp_path / "old.md", tmp_path / "new.json"
    old.write_text("earlier", encoding="utf-8")
    assert main(check_regressions.CheckError(), "--markdown", str(old), "--json", str(new)) == 2
    assert old.read_text(encoding="utf-8") == "earlier"
    assert not new.exists()


def test_same_code__is_neither_timed_nor_open():
    comparison = Comparison("b")
    comparison.compare({"step": "1", "rnnkernels/lstm.py": "2"}, {"step": "1", "rnnkernels/lstm.py": "2"})
    assert comparison.verdict == SAME


def test_differences__are_named():
    comparison = Comparison("b")
    comparison.compare({f"kernel {i}": "1" for i in range(4)}, {"rnnkernels/lstm.py": "2"})
    assert comparison.verdict == OPEN
    assert comparison.remark == "[differs: kernel 0, kernel 1, kernel 2, 2 more]"


@pytest.mark.parametrize("sides", [(None, None), (None, {}), ({"step": "1"}, None)])
def test_what_is_not_known__is_timed(sides):
    comparison = Comparison("b")
    comparison.compare(*sides)
    assert comparison.verdict == OPEN


def git_repository(folder):
    """A function that runs Git in a new repository."""

    def git(*words):
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
        try:
            subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("git is not installed")

    git("init", "--quiet")
    return git


def test_folder__is_shared_by_commits_that_differ_in_comments_and_docstrings(tmp_path, monkeypatch):
    git = git_repository(tmp_path)
    monkeypatch.setattr(check_regressions, "ROOT", tmp_path)
    monkeypatch.setattr(check_regressions, "BUILDS", tmp_path / "builds")
    module = tmp_path / "rnnkernels" / "__init__.py"
    module.parent.mkdir()
    folders = []
    for source in ('"""One."""\nx = 1\n', '"""Two."""\n\nx = 1  # a comment\n', '"""Two."""\nx = 2\n'):
        module.write_text(source, encoding="utf-8")
        git("add", "rnnkernels")
        git("commit", "--quiet", "--message", "a commit")
        folders.append(check_regressions.find_commit("HEAD").folder)
    assert folders[0] == folders[1] != folders[2]
    assert (folders[2] / "rnnkernels" / "__init__.py").read_text(encoding="utf-8") == source
    assert not list((tmp_path / "builds").glob("tmp*"))


def test_known__is_kept_until_the_circumstances_change(tmp_path, monkeypatch):
    known = check_regressions.Known(tmp_path)
    known.fingerprints["b"] = {"step": "1"}
    known.save()
    assert check_regressions.Known(tmp_path).fingerprints == {"b": {"step": "1"}}
    monkeypatch.setenv("RNNKERNELS_VECTOR_BYTES", "16")
    assert check_regressions.Known(tmp_path).fingerprints == {}


def test_machine_code__is_taken_over_where_it_is_missing(tmp_path):
    base, head = (check_regressions.Commit(name, name) for name in ("base", "head"))
    for commit in (base, head):
        vars(commit)["code_folder"] = tmp_path / commit.label
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "both.nbc").write_text("of base")
    (tmp_path / "base" / "one.nbc").write_text("of base")
    (tmp_path / "base" / "other.txt").touch()
    head.take_over(base)
    (tmp_path / "head" / "both.nbc").write_text("of head")
    head.take_over(base)
    found = {path.name: path.read_text() for path in (tmp_path / "head").iterdir()}
    assert found == {"both.nbc": "of head", "one.nbc": "of base"}
    vars(base)["code_folder"] = None  # an old commit, which cannot tell
    head.take_over(base)


def test_rounds__go_where_they_decide():
    cheap, dear, slow = (Comparison(name, base=[1e-3] * 9) for name in ("cheap", "dear", "slow"))
    noise = np.random.default_rng(0).normal(0, 0.01, 9)
    for comparison, ratio in ((cheap, 1.0), (dear, 1.049), (slow, 1.2)):
        comparison.head = [1e-3 * ratio * math.exp(x) for x in noise]
        comparison.spent_seconds = 9.0
    check = check_regressions.Check(None, None, [""], 0.05, 640, 20.0, 90.0, comparisons=[dear, cheap, slow])
    check.timing_began = time.perf_counter()
    assert check._affordable(14) == [cheap, slow]


def test_json__is_strict(main, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    report = tmp_path / "report.json"
    few_rounds = Comparison("few rounds", base=[1e-3], head=[1e-3])
    assert main([measured(1.0), few_rounds, *open_ones(1)], "--json", str(report)) == 3
    record = json.loads(report.read_text(encoding="utf-8"), parse_constant=refuse)
    intervals = {c["name"]: c["interval"] for c in record["comparisons"]}
    assert intervals["few rounds"] == [0, 1, None]
    assert all(c["evidence"]["looks"] == (c["seen"] > 0) for c in record["comparisons"])
    assert intervals["open 0"] == [0, None, None]
    assert all(isinstance(end, float) for end in intervals["about 1.0"])


def test_commit__that_git_does_not_know_is_named(monkeypatch, capsys):
    def ended(*arguments, **variables):
        raise GitError(f"git {arguments[0]}: fatal")

    monkeypatch.setattr(check_regressions, "_git", ended)
    monkeypatch.setattr(check_regressions.Check, "run", lambda check: pytest.fail("it has run"))
    assert check_regressions.main(["no-such-commit"]) == 2
    assert "'no-such-commit' is no commit with a folder rnnkernels (git rev-parse: fatal)" in capsys.readouterr().err


def test_commit__needs_a_name_that_git_resolves_to_one_with_the_package(tmp_path, monkeypatch):
    git = git_repository(tmp_path)
    git("commit", "--quiet", "--allow-empty", "--message", "empty")
    (tmp_path / "rnnkernels").mkdir()
    (tmp_path / "rnnkernels" / "__init__.py").touch()
    git("add", "--all")
    git("commit", "--quiet", "--message", "package")
    monkeypatch.setattr(check_regressions, "ROOT", tmp_path)
    commit = check_regressions.find_commit("HEAD")
    assert commit.label.endswith(" package")
    assert re.fullmatch("[0-9a-f]{40,64}", commit.tree)
    for name in ("HEAD~1", "HEAD:rnnkernels", "nonsense", "--all", ""):
        with pytest.raises(check_regressions.CheckError, match=f"^{name!r} is no commit with a folder rnnkernels"):
            check_regressions.find_commit(name)


@pytest.mark.parametrize("package", ["numba", "numpy", "scipy", "tqdm"])
def test_missing_package__is_named_with_the_extra(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT))
    assert ended.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"{package} is not installed")
    assert '".[bench]"' in complaint


def test_extra_bench__has_what_the_scripts_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
    installed = {re.split("[<>=]", requirement)[0] for requirement in required} | {"rnnkernels"}
    installed |= {"cpuinfo", "llvmlite"}  # by py-cpuinfo and Numba
    for name in ("check_regressions", "regression_experiment", "_fingerprints", "_machine", "_verdicts"):
        tree = ast.parse((SCRIPT.parent / f"{name}.py").read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
        packages = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
        assert {package for package in packages if not (SCRIPT.parent / f"{package}.py").exists()} <= installed


@pytest.mark.parametrize("options", [["--minimum-effect", "nan"], ["--seconds", "nan"], ["--decided", "101"]])
def test_option__out_of_range_cannot_run(capsys, options):
    with pytest.raises(SystemExit) as ended:
        check_regressions.main(["main", *options])
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err

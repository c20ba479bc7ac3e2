"""The check that runs documented commands: what it finds, and what it calls a fault."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / ".ci"))
check_commands = pytest.importorskip("check_commands", reason="not in a source distribution")
Documented, Row, TABLE = check_commands.Documented, check_commands.Row, check_commands.TABLE

MARKDOWN = r"""# Title

Say `python`, or `mypy` and `pip
install .`; not `pythonic(x)` or `asv_bench`.

    python -m pip install -e ".[bench]"
    asv run "HEAD^!"    # takes long

| question | command | extra |
| --- | --- | --- |
| which? | `A=1 asv run --bench "a\|b"` | `profile` |

## Other section

    python -m rnnkernels

```python
    ruff = "no command"
```

```sh
$ ruff check .
```
"""


def test_markdown__has_commands_with_the_extras_that_it_names():
    assert list(check_commands.in_markdown("FILE.md", MARKDOWN)) == [
        Documented("FILE.md", "mypy", None),
        Documented("FILE.md", "pip install .", None),
        Documented("FILE.md", 'python -m pip install -e ".[bench]"', "bench"),
        Documented("FILE.md", 'asv run "HEAD^!"', "bench"),
        Documented("FILE.md", 'A=1 asv run --bench "a|b"', "profile"),
        Documented("FILE.md", "python -m rnnkernels", None),
        Documented("FILE.md", "ruff check .", None),
    ]


def test_docstring__has_commands_with_the_extra_of_the_script():
    script = (
        '"""Do it.\n\n    python do.py --so "a b"  so\n    130  Ctrl-C\n"""\nINSTALL = \'pip install -e ".[train]"\'\n'
    )
    assert list(check_commands.in_script("do.py", script)) == [Documented("do.py", 'python do.py --so "a b"', "train")]


def test_documents__agree_with_the_table():
    found = check_commands.documented()
    assert check_commands.disagreements(found, TABLE) == []
    assert {one.place for one in found} >= {"README.md", "CONTRIBUTING.md", "scripts/train_char_lm.py"}
    assert len({row.command for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ([], "asv run: documented in A.md, but not in TABLE"),
        ([Row("bench", "asv run"), Row("bench", "asv stop")], "asv stop: in TABLE, but not documented"),
        ([Row("train", "asv run")], "asv run: A.md names the extra 'bench', TABLE 'train'"),
    ],
)
def test_disagreement__is_a_fault(table, fault):
    assert check_commands.disagreements([Documented("A.md", "asv run", "bench")], table) == [fault]


def test_row__that_adds_to_its_command_or_stands_for_it():
    assert Row("", 'a "b c"').words == ["a", "b c"]
    assert Row("", "a b", "+ --quick").words == ["a", "b", "--quick"]
    assert Row("", "a b", "a c").words == ["a", "c"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a row in a folder without an environment of its own; return what went wrong."""
    if os.name != "posix":
        pytest.skip("the check ends groups of processes, as POSIX has them")
    monkeypatch.setattr(check_commands, "TIMEOUT_SECONDS", 30.0)
    environment = check_commands.environment_for(tmp_path)
    return lambda row: check_commands.Runner(tmp_path)._run_row(row, tmp_path, environment)


def test_exit_status__has_to_be_the_expected_one(run):
    ends = """python -c 'print("last words"); raise SystemExit(3)'"""
    assert run(Row("", ends, statuses=(0, 3))) is None
    assert run(Row("", ends)) == "exit status 3\n    last words"
    assert run(Row("", "no-such-program")) == "there is no no-such-program"


def test_variables__before_a_command_reach_it(run):
    assert run(Row("", 'GIVEN=1 python -c \'import os; assert os.environ["GIVEN"] == "1"\'')) is None


def test_server__ends_once_it_serves(run):
    serve = """python -c '
import time
print("Serving", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("ended")
'"""
    assert run(Row("", serve, until="Serving")) is None
    assert run(Row("", "python -c 'print(1)'", until="Serving")) == "it did not print 'Serving'\n    1"


def test_command__that_does_not_end_is_ended(run, monkeypatch):
    monkeypatch.setattr(check_commands, "TIMEOUT_SECONDS", 1.0)
    assert run(Row("", "python -c 'import time; time.sleep(600)'")).startswith("no end within 1 s")

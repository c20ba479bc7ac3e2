"""The script that compares small calls, on one of them."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import rnnkernels

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import compare_small_calls

SIGMOID = ["--sizes", "2,3,4,5,6", "--functions", "sigmoid float64", "--rounds", "2"]


@pytest.fixture
def use(monkeypatch):
    """Let the script find another sigmoid in rnnkernels."""
    return lambda function: monkeypatch.setattr(rnnkernels, "sigmoid", function)


def test_comparison__tells_a_fast_call_from_a_slow_and_a_wrong_one(use, capsys):
    right = rnnkernels.reference.sigmoid

    def slow(x):
        time.sleep(0.001)
        return right(x)

    for function, status, words in (
        (lambda x: 2 * right(x), 2, "rnnkernels: 0 differs by"),
        (lambda x: np.ones(3), 2, "rnnkernels: 0 has shape (3,), not (2, 3, 5)"),
        (lambda x: x.nonsense, 2, "AttributeError"),
        (slow, 1, "of what is allowed"),
    ):
        use(function)
        assert compare_small_calls.main(SIGMOID) == status
        assert words in capsys.readouterr().out

    values = rnnkernels.reference.sigmoid(compare_small_calls.layer_arrays(2, 3, 4, 5, 6, "float64")["h"])
    use(lambda x: values)
    assert compare_small_calls.main(SIGMOID) == 0
    assert "0 of 1 calls" in capsys.readouterr().out


def test_comparison__writes_every_visit_and_a_chart(tmp_path):
    files = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    threads = rnnkernels.get_num_threads()
    assert compare_small_calls.main([*SIGMOID, *files]) in (0, 1)
    assert rnnkernels.get_num_threads() == threads
    (row,) = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["rows"]
    assert row["entry"]["function"] == "sigmoid"
    assert row["rounds"].keys() == {"rnnkernels", "NumPy"}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_comparison__shows_what_there_is_after_ctrl_c(use, capsys):
    def interrupted(x):
        raise KeyboardInterrupt

    use(interrupted)
    assert compare_small_calls.main(SIGMOID) == 130
    assert "points" in capsys.readouterr().out


def test_list__has_every_function_and_table(capsys):
    assert compare_small_calls.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines))
    named = {name for name in rnnkernels.__all__ if name.endswith(("ward", "loss")) or name == "sigmoid"}
    assert {line.split()[1] for line in lines if line.startswith("functions")} == named
    assert {line.split()[0] for line in lines} == set(compare_small_calls.TABLES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--functions", "("], "is no regular expression"),
        (["--sizes", "1,2,3"], "five positive numbers"),
        (["--rounds", "0"], "at least 1"),
        (["--tables", "huge"], "not one of functions,"),
        (["--json", "no/such/folder/a.json"], "a folder that exists"),
    ],
)
def test_options__are_checked(options, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        compare_small_calls.main(options)
    assert words in capsys.readouterr().err


def test_options__that_match_nothing_end_with_a_sentence(capsys):
    assert compare_small_calls.main(["--functions", "nothing"]) == 2
    assert "No call matches" in capsys.readouterr().err

"""The script that profiles long sequences, on short ones."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import profile_long_sequence


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(profile_long_sequence, "LEAST_SECONDS", 0.0)

    def run(*options):
        return profile_long_sequence.main(["--hidden", "8", "--out", str(tmp_path / "out"), *options])

    return run


@pytest.mark.parametrize(
    ("options", "functions"),
    [
        (["--cell", "lstm"], ["lstm_forward"]),
        (["--cell", "rnn", "--training", "--dtype", "float64", "--batch", "2"], ["rnn_forward", "rnn_backward"]),
    ],
)
def test_script__leaves_figures_chart_and_trace(run, tmp_path, capsys, options, functions):
    assert run("--lengths", "300,2e1", "--inputs", "3", *options) == 0
    record = json.loads((tmp_path / "out/profile.json").read_text(encoding="utf-8"))
    assert [point["T"] for point in record["points"]] == [20, 300]
    for point in record["points"]:
        assert [call["name"] for call in point["calls"]] == functions
        assert point["step_ns"] * point["T"] == pytest.approx(sum(call["seconds"] for call in point["calls"]) * 1e9)
        assert (point["kept_bytes"] > 0) == ("--training" in options)
    events = json.loads((tmp_path / "out/profile-trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert set(functions) < {event["name"] for event in events}
    assert (tmp_path / "out/profile.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "A step at T = 300 takes" in printed
    assert "What helps:" in printed


@pytest.mark.parametrize("shape", [(50, 3), (2, 50, 3)])
def test_input__is_a_file_of_sequences(run, tmp_path, rng, shape):
    np.save(tmp_path / "x.npy", rng.standard_normal(shape))
    assert run("--input", str(tmp_path / "x.npy")) == 0
    record = json.loads((tmp_path / "out/profile.json").read_text(encoding="utf-8"))
    [point] = record["points"]
    assert point["calls"][0]["sizes"] == {"N": 1 if len(shape) == 2 else 2, "T": 50, "D": 3, "H": 8}


def test_input__names_what_is_wrong(run, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"Cannot read .*no\.npy as an array"):
        run("--input", str(tmp_path / "no.npy"))
    np.save(tmp_path / "flat.npy", np.zeros(5))
    with pytest.raises(SystemExit, match=r"must hold numbers of shape \(T, D\) or \(N, T, D\); it holds float64"):
        run("--input", str(tmp_path / "flat.npy"))
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    with pytest.raises(SystemExit, match="has 5 steps, fewer than 9"):
        run("--input", str(tmp_path / "x.npy"), "--lengths", "9")
    with pytest.raises(SystemExit):
        run("--input", str(tmp_path / "x.npy"), "--batch", "2")
    assert "--input decides --batch and --inputs" in capsys.readouterr().err


def test_interrupt__ends_with_what_there_is(run, tmp_path, monkeypatch):
    measure = profile_long_sequence.measure

    def measure_until(problem, T):
        if T > 30:
            raise KeyboardInterrupt
        return measure(problem, T)

    monkeypatch.setattr(profile_long_sequence, "measure", measure_until)
    assert run("--lengths", "20,30,40,50") == 130
    record = json.loads((tmp_path / "out/profile.json").read_text(encoding="utf-8"))
    assert [point["T"] for point in record["points"]] == [20, 30]


def test_lengths__beyond_the_memory_are_left_out(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(profile_long_sequence, "free_bytes", lambda: 1e5)
    assert run("--lengths", "20,1e4") == 0
    assert "10000  left out: it needs 0.0 GB" in capsys.readouterr().out

"""The script that profiles long sequences, on short ones."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

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
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"empty\.npy as an array: the file is empty"):
        run("--input", str(tmp_path / "empty.npy"))
    np.savez(tmp_path / "two.npz", a=np.zeros((5, 2)), b=np.zeros(3))
    with pytest.raises(SystemExit, match=r"is an archive of arrays \(a, b\), not one array"):
        run("--input", str(tmp_path / "two.npz"))
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lengths", "inf"], "must be numbers such as 1000 or 1e3, got 'inf'"),
        (["--lengths", "nan"], "must be numbers such as"),
        (["--lengths", "10,x"], "must be numbers such as"),
        (["--lengths", "0"], "must be at least 1"),
        (["--lengths", "1.5"], "must be a whole number, got 1.5"),
        (["--html", "no/such/folder/page.html"], "there is no folder"),
        (["--html", "."], "is a folder"),
    ],
)
def test_options__that_cannot_work_end_before_anything_runs(run, capsys, monkeypatch, options, message):
    monkeypatch.setattr(profile_long_sequence, "measure", None)
    with pytest.raises(SystemExit) as end:
        run(*options)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_table__tells_lengths_apart(run, capsys):
    assert run("--lengths", "1000,1020") == 0
    printed = capsys.readouterr().out
    assert "1,000 " in printed
    assert "1,020 " in printed


@pytest.mark.parametrize("options", [(), ("--training", "--cell", "rnn")])
def test_sizes__beyond_the_memory_end_before_anything_runs(run, capsys, options):
    with pytest.raises(SystemExit, match=r"Weights of H = 100,000,000 and D = 16 take .* GB of memory"):
        run("--hidden", "100000000", *options)
    assert run("--batch", "10000000000000") == 1
    assert "Nothing was measured." in capsys.readouterr().out


def test_html__may_lie_in_a_folder_that_is_about_to_be_made(tmp_path, capsys):
    pytest.importorskip("plotly")
    out = tmp_path / "new/out"
    for page in ("new/page.html", "new/out/page.html"):
        options = profile_long_sequence.parse_arguments(["--out", str(out), "--html", str(tmp_path / page)])
        assert options.html == tmp_path / page
    for page, message in (("none/page.html", "there is no folder"), ("new/out", "is a folder"), ("new", "is a folder")):
        with pytest.raises(SystemExit):
            profile_long_sequence.parse_arguments(["--out", str(out), "--html", str(tmp_path / page)])
        assert message in capsys.readouterr().err


def test_html__is_one_page_that_needs_no_other(run, tmp_path):
    pytest.importorskip("plotly")
    assert run("--lengths", "20,300", "--html", str(tmp_path / "out/page.html"), "--training") == 0
    page = (tmp_path / "out/page.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert "<script src=" not in page
    assert "lstm_backward" in page


@pytest.fixture
def point(run, monkeypatch):
    points = []
    measure = profile_long_sequence.measure
    monkeypatch.setattr(profile_long_sequence, "measure", lambda *given: points.append(measure(*given)) or points[-1])
    assert run("--lengths", "3000") == 0
    return points[-1]


def test_figures_above_the_limit__are_faults_of_the_measurement(point):
    def at(share_of_limit):
        [call] = point.calls
        phases = [dataclasses.replace(phase, limit_seconds=share_of_limit * phase.seconds) for phase in call.phases]
        limit = share_of_limit * call.seconds
        call = dataclasses.replace(call, phases=tuple(phases), limit_seconds=limit)
        return dataclasses.replace(point, calls=[call])

    assert not profile_long_sequence.faults([at(0.9)])
    wrong = at(70)
    assert "a fault of the measurement" in profile_long_sequence.faults([wrong])[0]
    assert profile_long_sequence.line(wrong)[4] == "fault"


def test_plots__mark_what_they_cut(point):
    [call] = point.calls
    chunks = call.chunks.copy()
    chunks["seconds"] = np.median(chunks["seconds"])
    chunks["seconds"][1] *= 1000
    slow = dataclasses.replace(point, calls=[dataclasses.replace(call, chunks=chunks)])
    axes = Figure().subplots()
    profile_long_sequence._draw_steps(slow, axes)
    _, labels = axes.get_legend_handles_labels()
    assert any(label.startswith(f"1 of {len(chunks)} chunks slower, up to") for label in labels)
    phases = [dataclasses.replace(phase, seconds=100 * phase.seconds) for phase in call.phases]
    tall = dataclasses.replace(point, calls=[dataclasses.replace(call, phases=tuple(phases))])
    axes = Figure().subplots()
    profile_long_sequence._draw_phases([point, point, tall], axes)
    assert [text.get_text()[:4] for text in axes.texts] == ["cut:"]


def test_advice__knows_how_many_threads_there_are(point, monkeypatch):
    options = profile_long_sequence.parse_arguments(["--threads", "1"])
    problem = profile_long_sequence.Problem(options)
    [call] = point.calls
    phases = [
        dataclasses.replace(phase, seconds=phase.seconds + 10 * call.seconds * (phase.name == "cell"))
        for phase in call.phases
    ]
    point = dataclasses.replace(point, calls=[dataclasses.replace(call, phases=tuple(phases))])
    for available, expected in ((4, "--threads 4"), (1, None)):
        monkeypatch.setattr(profile_long_sequence, "available_threads", lambda n=available: n)
        words = " ".join(profile_long_sequence.verdict(problem, point, {}))
        assert ("more threads" in words) == (expected is not None)
        assert expected is None or expected in words

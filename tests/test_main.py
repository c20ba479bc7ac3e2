"""The package from the command line, compilation ahead of time, and what users are told about it."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
import types

import numpy as np
import pytest

import rnnkernels
from rnnkernels import __main__ as command
from rnnkernels import _program, _threads, profiling
from rnnkernels.kernels import inventory

SCRIPT = """
import sys
import numpy as np
import rnnkernels
print(sys.argv[1:], __name__)
arrays = np.zeros((2, 9, 3)), np.zeros((2, 4)), np.zeros((3, 16)), np.zeros((4, 16)), np.zeros(16)
for _ in range(3):
    h, cache = rnnkernels.lstm_forward(*arrays)
rnnkernels.sigmoid(h)
sys.exit(7)
"""


def test_facts__are_shown_as_text_and_as_json(capsys):
    assert command.main([]) == 0
    text = capsys.readouterr().out
    for word in ("rnnkernels", "numba", "vector bytes", "threads", "code folder"):
        assert word in text
    assert command.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["threads"] == rnnkernels.get_num_threads()
    assert facts["rnnkernels"] == rnnkernels.__version__


def test_profile__runs_a_script_as_python_would_and_ends_with_its_status(tmp_path, capsys):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    saved = list(sys.argv), list(sys.path)
    record = tmp_path / "record.json"
    assert command.main(["profile", "--json", str(record), str(tmp_path / "script.py"), "a", "--b"]) == 7
    assert (sys.argv, sys.path) == saved
    printed = capsys.readouterr()
    assert printed.out == "['a', '--b'] __main__\n"
    for word in ("lstm_forward", "N = 2, T = 9, D = 3, H = 4, float64", "sigmoid", "outside the package"):
        assert word in printed.err
    assert len(json.loads(record.read_text(encoding="utf-8"))["calls"]) == 4


def test_profile__writes_where_it_was_told_though_the_script_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "script.py").write_text("import os\nos.chdir('folder')\n", encoding="utf-8")
    assert command.main(["profile", "--json", "record.json", "script.py"]) == 0
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["calls"] == []


def test_profile__leaves_out_the_time_that_it_takes_to_begin(tmp_path, monkeypatch):
    clock, begin = [0.0], profiling.Profile.__enter__

    def slow_begin(profile):
        clock[0] += 100
        return begin(profile)

    monkeypatch.setattr(command, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(profiling.Profile, "__enter__", slow_begin)
    (tmp_path / "script.py").touch()
    assert command.main(["profile", "--json", str(tmp_path / "record.json"), str(tmp_path / "script.py")]) == 0
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["seconds"] == 0


@pytest.mark.parametrize("name", [".", "none/record.json"])
def test_profile__finds_that_it_cannot_write_before_it_runs(tmp_path, capsys, name):
    (tmp_path / "script.py").write_text("print('ran')", encoding="utf-8")
    assert command.main(["profile", "--json", str(tmp_path / name), str(tmp_path / "script.py")]) == 2
    printed = capsys.readouterr()
    assert "Cannot write" in printed.err
    assert not printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "profile", "script.py"], "--json: comes after `profile`, with the name of a file"),
        (["compile", "--jobs", "0"], "--jobs: must be in 1 .. 256, got 0\n"),
        (["compile", "--jobs", "257"], "--jobs: must be in 1 .. 256, got 257\n"),
    ],
)
def test_options__that_cannot_work_are_named(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_profile__of_no_script_says_so(tmp_path, capsys):
    assert command.main(["profile", str(tmp_path / "none.py")]) == 2
    assert "There is no file" in capsys.readouterr().err


def profile_of(run):
    run()  # compiles
    with profiling.profile() as profile:
        run()
    return profile.calls


def test_table__of_a_program_adds_up_to_its_time():
    [call] = profile_of(lambda: rnnkernels.sigmoid(np.zeros(1000)))
    calls = [dataclasses.replace(call, seconds=2.0, recording_seconds=3.0)]
    table = _program.program_table(calls, 10.0)
    for shown in (
        "sigmoid                          1       2 s   28.6%",
        "outside the package                      5 s   71.4%",
        "the whole program                1       7 s",
        "recording, besides                       3 s",
        "71% of the time is spent outside",
    ):
        assert shown in table
    assert "look there" not in _program.program_table(calls, 6.0)
    assert _program._covered([*calls, *calls]) == pytest.approx(2.0)
    assert _program._covered([*calls, *calls], recording=True) == pytest.approx(5.0)
    assert _program.program_table([], 1.0) == "The program took 1 s and called no function of rnnkernels."


def test_advice__finds_single_steps():
    x, h, Wx, Wh, b = np.zeros((1, 3)), np.zeros((1, 4)), np.zeros((3, 4)), np.zeros((4, 4)), np.zeros(4)
    calls = profile_of(lambda: [rnnkernels.rnn_step_forward(x, h, Wx, Wh, b) for _ in range(5)])
    [words] = _program.advice([calls], sum(call.seconds for call in calls), 0.0)
    assert "5 single steps. A stream keeps its state and packed weights" in words


@pytest.mark.parametrize(("how", "cure"), [("compiled", "run `python -m"), ("loaded", "each process does so once")])
def test_calls__that_wait_for_machine_code_are_told_from_others(how, cure):
    x, h, Wx, Wh, b = np.zeros((1, 3)), np.zeros((1, 4)), np.zeros((3, 4)), np.zeros((4, 4)), np.zeros(4)
    [call] = profile_of(lambda: rnnkernels.rnn_step_forward(x, h, Wx, Wh, b))
    usual = dataclasses.replace(call, seconds=1.0, limit_seconds=0.5, recording_seconds=0.0)
    calls = [dataclasses.replace(usual, seconds=5.0, **{how: 1}), *[usual] * 4]
    line, *_ = (line for line in _program.program_table(calls, 9.0).splitlines() if line.startswith("rnn_step"))
    assert line.split()[1:8] == ["5", "9", "s", "100.0%", "1", "s", "50%"]
    code, steps = _program.advice([calls], 9.0, 0.0)
    assert code.startswith(f"1 kernel {how} meanwhile, in calls that took 5 s: {cure}")
    assert "44%: 4 single steps. A stream" in steps
    [code] = _program.advice([calls[:1] * 2], 10.0, 0.0)
    assert code.startswith(f"2 kernels {how} meanwhile, in calls that took 10 s")
    assert " 5 s" in _program.program_table(calls[:1] * 2, 10.0)


def test_advice__knows_layers_and_streams():
    layer = rnnkernels.LSTM.create(3, 4)
    stream, x = layer.stream(), np.zeros((1, 3), np.float32)
    for run, advised in (
        (lambda: layer.step(x), "A stream keeps its state"),
        (lambda: stream.step(x), "`steps` takes a block"),
    ):
        calls = profile_of(lambda run=run: [run() for _ in range(5)])
        [words] = _program.advice([calls], sum(call.seconds for call in calls), 0.0)
        assert f"5 single steps. {advised}" in words or f"beforehand, {advised}" in words


def test_compile_all__leaves_nothing_to_compile_and_tells_how_far_it_is():
    told = []
    rnnkernels.compile_all(["rnn"], [np.float32], lambda *given: told.append(given))
    assert told[0] == (0, 5, "rnn sequences, float32")
    assert told[-1] == (5, 5, "")
    before = inventory.count_machine_code().compiled
    rnnkernels.compile_all(["rnn"], ["float32"])
    assert inventory.count_machine_code().compiled == before
    with pytest.raises(ValueError, match="`cells` must be one of"):
        rnnkernels.compile_all(["lstn"])
    with pytest.raises(TypeError, match="`dtypes` must be float32 or float64"):
        rnnkernels.compile_all(["rnn"], [int])


@pytest.mark.parametrize("json_at", [None, 0, 1])
def test_compile__shows_progress_or_json(capsys, json_at):
    arguments = ["compile", "--cell", "rnn", "--dtype", "float32"]
    if json_at is not None:
        arguments.insert(json_at, "--json")
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    if json_at is not None:
        assert json.loads(printed)["seconds"] >= 0
    else:
        assert "2 of 2  " in printed
        assert "rnn, float32" in printed


@pytest.mark.parametrize("folder", ["somewhere", None])
def test_notices__come_once_each(caplog, monkeypatch, folder):
    monkeypatch.setattr(inventory, "NOTICE_SECONDS", 0.0)
    monkeypatch.setattr(inventory, "CACHE_IS_ON", True)
    kernel = types.SimpleNamespace(
        py_func=types.SimpleNamespace(__module__="rnnkernels.kernels.x", __qualname__="x"),
        stats=types.SimpleNamespace(cache_path=folder),
        targetoptions={},
    )
    compiles = types.SimpleNamespace(data={"dispatcher": kernel})
    notices = inventory._Notices()
    with caplog.at_level(logging.WARNING, "rnnkernels"):
        for _ in range(2):
            notices.on_start(compiles)
            notices.on_end(compiles)
    texts = [record.getMessage() for record in caplog.records]
    assert sum("Kernels are being compiled" in text for text in texts) == 1
    assert sum("NUMBA_CACHE_DIR" in text for text in texts) == (folder is None)


def test_bad_number_of_threads__in_the_environment_warns(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for bad in ("zero", "0", "-1", "2.5"):
        monkeypatch.setenv("RNNKERNELS_NUM_THREADS", bad)
        with pytest.warns(RuntimeWarning, match="RNNKERNELS_NUM_THREADS must be an integer, at least 1"):
            assert _threads._initial_threads() == _threads.available_threads()
    monkeypatch.setenv("RNNKERNELS_NUM_THREADS", "1")
    assert _threads._initial_threads() == 1


@pytest.mark.parametrize("arguments", [["--json"], ["compile", "--help"]])
def test_module__can_be_run(arguments):
    run = subprocess.run(
        [sys.executable, "-m", "rnnkernels", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr

"""The script that forecasts series, on short ones."""

import signal
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_same_bits

import rnnkernels

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import forecast_series

SMALL = ["--hidden", "6", "--batch", "3", "--window", "5", "--warm-up", "10", "--forecast", "20", "--starts", "3"]
SHORT = ["--length", "400", "--steps", "12"]


@pytest.fixture
def run(tmp_path):
    def run(*options, out="out"):
        return forecast_series.main(["--out", str(tmp_path / out), *SMALL, *options])

    return run


@pytest.fixture
def refused(run, tmp_path, capsys):
    """A function that says for which reason a run ended before it began."""

    def refused(*options):
        with pytest.raises(SystemExit) as end:
            run(*options)
        assert end.value.code == 2
        assert not list(tmp_path.glob("out/*"))
        captured = capsys.readouterr()
        assert not captured.out
        return captured.err

    return refused


def load(path):
    with np.load(path) as arrays:
        return dict(arrays)


def make_model(D=2, **settings):
    return forecast_series.Forecaster(forecast_series.Settings(**{"dtype": "float64", "hidden": 4} | settings), D)


def test_training__learns_the_lorenz_system(run, tmp_path, capsys):
    options = "--length", "4000", "--steps", "600", "--hidden", "16", "--batch", "8", "--window", "16"
    assert run(*options, "--learning-rate", "0.02") == 0
    left = load(tmp_path / "out/forecast.npz")
    assert left["losses"].shape == (600,)
    assert 0.5 < left["losses"][0] < 1.5  # that of the naive forecast is 1 in the mean
    assert np.median(left["losses"][-50:]) < 0.01
    series = np.load(tmp_path / "out/series.npy")
    assert series.shape == (4000, 3)
    naive, ours = (np.abs(of - left["truth"]).mean() for of in (left["past"][:, -1:], left["forecast"]))
    assert ours < 0.1 * naive
    np.testing.assert_allclose(left["past"][0], series[3600:3610], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(left["truth"][-1], series[-20:], rtol=1e-5, atol=1e-5)
    assert (tmp_path / "out/forecast.png").read_bytes().startswith(b"\x89PNG")
    assert "Forecasts from 3 places" in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["lstm", "rnn", "gru"])
def test_run__with_one_seed_ends_with_the_same_bits_with_checkpoints_too(run, tmp_path, monkeypatch, cell):
    monkeypatch.setattr(forecast_series, "draw", lambda *arguments: None)
    options = *SHORT, "--system", "oscillators", "--cell", cell, "--layers", "2", "--dtype", "float64"
    assert run(*options, out="one") == 0
    assert run(*options, "--checkpoint-every", "2", out="two") == 0
    assert run(*options, "--memory-budget", "20000", "--seed", "1", out="three") == 0
    one, two, three = (load(tmp_path / f"{out}/forecast.npz") for out in ("one", "two", "three"))
    for name, values in one.items():
        assert_same_bits(two[name], values)
    assert one["forecast"].shape == (3, 20, 8)
    assert not np.array_equal(one["forecast"], three["forecast"])


@pytest.mark.parametrize(("number", "steps"), [(signal.SIGINT, 4), (signal.SIGTERM, 1)])
def test_interrupt__ends_the_training_and_keeps_what_there_is(run, tmp_path, monkeypatch, capsys, number, steps):
    compute, calls = forecast_series.Forecaster.loss_and_gradient, []

    def loss_and_gradient(*arguments):
        calls.append(1)
        if len(calls) == 1 + steps:  # the first call is for compilation
            signal.raise_signal(number)
        return compute(*arguments)

    monkeypatch.setattr(forecast_series.Forecaster, "loss_and_gradient", loss_and_gradient)
    assert run(*SHORT) == 128 + number
    left = load(tmp_path / "out/forecast.npz")
    assert left["losses"].shape == (steps,)
    assert left["W_out"].any()
    assert (tmp_path / "out/forecast.png").exists()
    assert f"Stopped after {steps} of 12 minibatches." in capsys.readouterr().out


def test_interrupt__of_a_series_leaves_no_part_of_it(run, tmp_path, monkeypatch):
    def runge_kutta(*arguments):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(forecast_series, "runge_kutta", runge_kutta)
    with pytest.raises(KeyboardInterrupt):
        run(*SHORT)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("more", [{}, {"checkpoint_every": 2}, {"layers": 2}], ids=str)
@pytest.mark.parametrize("cell", ["lstm", "rnn", "gru"])
def test_gradient__is_that_of_the_loss(rng, cell, more):
    model = make_model(cell=cell, **more)
    model.flat[:] += 0.3 * rng.standard_normal(model.flat.size)
    flat, direction = model.flat.copy(), rng.standard_normal(model.flat.size)
    x, target = rng.standard_normal((2, 3, 6, 2))
    lengths = np.array([6, 0, 4])

    def loss_and_gradient(move):
        model.flat[:] = flat + move * direction
        model.refresh()
        return model.loss_and_gradient(x, target, lengths)

    _, gradient, _ = loss_and_gradient(0)
    slope = (loss_and_gradient(1e-5)[0] - loss_and_gradient(-1e-5)[0]) / 2e-5
    assert gradient @ direction == pytest.approx(slope, rel=1e-7)


def test_training__carries_states_through_each_pass_over_the_series(rng, monkeypatch):
    series, scales = rng.standard_normal((23, 2)), forecast_series.Scales(np.ones(2), np.full(2, 2.0), np.ones(2))
    model = make_model(batch=2, window=4, steps=7)
    compute, calls = model.loss_and_gradient, []

    def loss_and_gradient(x, target, lengths, state):
        result = compute(x, target, lengths, state)
        calls.append((x, target, lengths.tolist(), state, result[2]))
        return result

    monkeypatch.setattr(model, "loss_and_gradient", loss_and_gradient)
    losses, stopped = forecast_series.train(model, series, scales)
    assert (len(losses), stopped) == (7, 0)
    for number, (x, target, lengths, state, _) in enumerate(calls):
        begin = number % 3 * 4
        assert lengths == ([3, 3] if begin == 8 else [4, 4])
        assert_same_bits(x[1], (series[11 + begin :][: lengths[1]] - 1) / 2)
        assert_same_bits(target[1], np.diff(series[11 + begin :][: lengths[1] + 1], axis=0))
        if begin == 0:
            assert state == ()
        else:
            assert state is calls[number - 1][4]


def test_loss__is_the_mean_over_valid_steps(rng):
    model = make_model()  # its readout is zero
    x, target = rng.standard_normal((2, 2, 3, 2))
    loss, _, state = model.loss_and_gradient(x, target, np.array([3, 1]))
    assert loss == pytest.approx(np.square(np.concatenate((target[0], target[1, :1]))).mean(), rel=1e-12)
    assert_same_bits(state.h, model.layer.forward(x, lengths=[3, 1]).state.h)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("rnn", 2), ("gru", 2)])
def test_forecast__streamed_is_that_of_whole_forwards(rng, cell, layers, dtype):
    model = make_model(cell=cell, layers=layers, dtype=dtype)
    model.flat[:] += 0.3 * rng.standard_normal(model.flat.size)
    model.refresh()
    scales = forecast_series.Scales(np.zeros(2), np.array([2.0, 3.0]), np.array([0.3, 0.5]))
    past = rng.standard_normal((3, 7, 2)).astype(dtype)
    got = forecast_series.forecast(model, scales, past, 9)
    inputs = np.concatenate((past, got[:, :-1]), axis=1)
    h, _ = model.layer.forward(inputs, keep_cache=False)
    change, _ = rnnkernels.temporal_affine_forward(h, model.weights["W_out"], model.weights["b_out"])
    onward = inputs + (scales.change / scales.deviation).astype(dtype) * change
    assert_same_bits(got, np.ascontiguousarray(onward[:, 6:]))
    assert got.dtype == dtype


def test_comparison__tells_for_how_long_forecasts_are_good():
    truth = np.zeros((3, 4, 2))
    predicted = np.array([[0, 0.1, 0.5, 0.1], [0, 0, 0, 0], [np.nan, 0, 0, 0]])[..., np.newaxis] + truth
    comparison = forecast_series.Comparison(np.ones((3, 2, 2)), truth, predicted)
    assert comparison.good_steps().tolist() == [2, 4, 0]
    assert comparison.good_steps(naive=True).tolist() == [0, 0, 0]
    assert comparison.typical == 0
    assert "Below 0.4 for 2 steps (median; 0 to 4), 1 units" in forecast_series.report(comparison, 0.5)


def test_series__is_not_read_whole(tmp_path, monkeypatch):
    np.save(tmp_path / "series.npy", np.random.default_rng(0).standard_normal((250_000, 4)))
    series = np.load(tmp_path / "series.npy", mmap_mode="r")
    monkeypatch.setattr(forecast_series, "BLOCK", 1000)
    settings = {"batch": 4, "window": 8, "steps": 3, "warm_up": 5, "forecast": 5}
    model = make_model(4, **settings)
    forecast_series.try_out(model, 4)
    tracemalloc.start()
    try:
        scales = forecast_series.find_scales(series, 200_000)
        losses, _ = forecast_series.train(model, series[:200_000], scales)
        forecast_series.compare(model, scales, series[200_000:])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(losses) == 3
    assert peak < series.nbytes / 10


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_scales__are_those_of_the_part_to_train_on(rng, monkeypatch, block):
    monkeypatch.setattr(forecast_series, "BLOCK", block)
    series = (1e6 + 3 * rng.standard_normal((40, 2))).astype(np.float32)
    series[:, 1] = 5
    part = series[:30].astype(np.float64)
    mean, deviation, change = forecast_series.find_scales(series, 30)
    np.testing.assert_allclose(mean, part.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, [part[:, 0].std(), 1], rtol=1e-9)
    np.testing.assert_allclose(change, [np.sqrt(np.square(np.diff(part[:, 0])).mean()), 1], rtol=1e-9)


def test_runge_kutta__is_of_fourth_order():
    def error(n):
        state = np.array([1.0, 0.0])
        for _ in range(n):
            state = forecast_series.runge_kutta(lambda s: np.array([s[1], -s[0]]), state, 1 / n)
        return np.abs(state - [np.cos(1), -np.sin(1)]).max()

    assert error(20) < 1e-6
    assert error(20) / error(40) == pytest.approx(16, rel=0.1)


def test_oscillators__keep_their_energy():
    system = forecast_series.SYSTEMS["oscillators"]

    def energy(state):
        places, speeds = np.split(state, 2)
        stretched = np.diff(places, prepend=0, append=0)
        return (speeds**2).sum() / 2 + (stretched**2 / 2 + stretched**4 / 4).sum()

    state = np.array(system.start)
    for _ in range(1000):
        state = forecast_series.runge_kutta(system.derivative, state, 0.01)
    assert energy(state) == pytest.approx(energy(np.array(system.start)), rel=1e-8)


def test_data__of_text_is_that_of_arrays(run, tmp_path, monkeypatch, rng):
    monkeypatch.setattr(forecast_series, "draw", lambda *arguments: None)
    monkeypatch.setattr(forecast_series, "BLOCK", 70)
    series = rng.standard_normal((300, 2)).cumsum(axis=0)
    np.save(tmp_path / "array.npy", series)
    text = "\n".join(f"{a!r}, {b!r}" for a, b in series.tolist())
    (tmp_path / "names.csv").write_text('# of a sensor\nheat,"flow"\n\n' + text + "\n", encoding="utf-8")
    (tmp_path / "numbers.csv").write_text(text, encoding="utf-8")
    for name in ("array.npy", "names.csv", "numbers.csv"):
        assert run("--data", str(tmp_path / name), "--steps", "5", out=name[:-4]) == 0
    for folder in ("names", "numbers"):
        assert_same_bits(np.load(tmp_path / folder / "series.npy"), series)
        for name, values in load(tmp_path / "array/forecast.npz").items():
            assert_same_bits(load(tmp_path / folder / "forecast.npz")[name], values)
    assert not (tmp_path / "array/series.npy").exists()
    assert forecast_series.table(tmp_path / "names.csv").columns == ("heat", "flow")


@pytest.mark.parametrize("names", ["", "heat,flow\n"])
def test_text__may_begin_with_a_byte_order_mark(tmp_path, names):
    path = tmp_path / "x.csv"
    path.write_text(names + "1.5,2\n3,4\n", encoding="utf-8-sig")
    source = forecast_series.table(path)
    assert source.T == 2
    assert source.columns == (("heat", "flow") if names else ("column 0", "column 1"))
    np.testing.assert_array_equal(np.concatenate(list(source.blocks())), [[1.5, 2], [3, 4]])


def test_plot__may_lie_in_a_folder_that_is_about_to_be_made(run, tmp_path):
    assert run(*SHORT, "--plot", str(tmp_path / "new/p.png"), out="new") == 0
    assert (tmp_path / "new/p.png").exists()


def test_data__may_be_one_column_of_integers(run, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(600, dtype=np.int16) % 7)
    assert run("--data", str(tmp_path / "x.npy"), "--steps", "3", "--plot", str(tmp_path / "own.png")) == 0
    assert load(tmp_path / "out/forecast.npz")["forecast"].shape == (3, 20, 1)
    assert (tmp_path / "own.png").exists()
    assert not (tmp_path / "out/forecast.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--length", "0"], "argument --length: must be at least 1"),
        (["--learning-rate", "nan"], "argument --learning-rate: must be above 0"),
        (["--system", "pendulum"], "argument --system: invalid choice"),
        (["--learning-rate", "inf"], "argument --learning-rate: must be above 0 and finite, got inf"),
        (["--seed", "-1"], "argument --seed: must be at least 0, got -1"),
        (["--plot", "no/forecast.png"], "there is no folder no"),
        (["--plot", "forecast.pdf"], "--plot must name a file that ends with .png"),
        (["--data", "x.npy", "--length", "9"], "--length is that of a computed series"),
        (["--data", "x.npy", "--system", "lorenz"], "not allowed with argument"),
        (["--data", "x.txt"], "--data must end with .npy or .csv; got x.txt"),
        (["--data", "no.npy"], "cannot read no.npy as an array"),
        (["--data", "no.csv"], "cannot read no.csv as text: "),
        (["--checkpoint-every", "2", "--memory-budget", "9"], "not allowed with argument"),
        (["--length", "16"], "16 steps, 14 of them to train on, too few for 3 streams of at least one window of 5"),
        (["--length", "200"], "20 of them to forecast, fewer than --warm-up and --forecast together, 30"),
    ],
)
def test_arguments__name_what_is_wrong(refused, monkeypatch, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*options)


def test_sizes__that_do_not_fit_are_named_before_there_is_a_series(refused):
    assert "`memory_budget` = 9 bytes is too little" in refused(*SHORT, "--memory-budget", "9")
    assert "of memory; this machine has" in refused(*SHORT, "--hidden", "100000000")
    assert "of memory; this machine has" in refused("--length", "3000000000000", "--window", "1000000000")
    assert "takes 96,000.0 GB in" in refused("--length", "4000000000000")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 300, 2)), "must hold numbers of shape (T, D) or (T,); it holds float64 of shape (2, 300, 2)"),
        (np.zeros((300, 2), complex), "it holds complex128"),
        (np.where(np.arange(300) == 290, np.nan, 0.0), "step 290 of the series is nan in column 0: it must be finite"),
    ],
)
def test_arrays__name_what_is_wrong(refused, tmp_path, values, message):
    np.save(tmp_path / "x.npy", values)
    assert message in refused("--data", str(tmp_path / "x.npy"))


def test_text__names_what_is_wrong(refused, tmp_path):
    path, rows = tmp_path / "x.csv", ["1,2"] * 400
    for row, message in (("1,?", "in lines 1 to 400, blank ones"), ("1,2,3", "in lines 1 to 400")):
        path.write_text("\n".join([*rows[:-1], row]), encoding="utf-8")
        assert message in refused("--data", str(path))
    for first, field in (("1,", ""), ("?,2", "?"), ("2020-01-01,2", "2020-01-01")):
        path.write_text("\n".join([first, *rows]), encoding="utf-8")
        assert f"holds numbers, but '{field}' too: it must be all" in refused("--data", str(path))
    path.write_text("# nothing\n\n", encoding="utf-8")
    assert "has no lines but blank ones" in refused("--data", str(path))
    path.write_bytes(b"\xff\xfe")
    assert "as text" in refused("--data", str(path))


def test_training__that_diverges_says_so(run, monkeypatch):
    monkeypatch.setattr(forecast_series.Forecaster, "refresh", lambda self: self.flat.fill(np.nan))
    with pytest.raises(SystemExit, match="The loss is nan after 0 steps: try a lower --learning-rate"):
        run(*SHORT)

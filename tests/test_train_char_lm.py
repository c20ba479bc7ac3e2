"""The training script, on small models."""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import rnnkernels
from rnnkernels import reference

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import train_char_lm

SMALL = ["--embedding", "4", "--hidden", "6", "--batch", "3", "--window", "5", "--sample-chars", "20"]
TEXT = "def f(x):\n    return x\n" * 100


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "a text.py"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path, text):
    def run(*options, out="out"):
        return train_char_lm.main(["--text", str(text), "--out", str(tmp_path / out), *SMALL, *options])

    return run


def stop_at_step(monkeypatch, step, number):
    calls = 0
    compute = train_char_lm.loss_and_gradient

    def loss_and_gradient(*arguments):
        nonlocal calls
        calls += 1
        if calls == 1 + step:  # the first call is for compilation
            signal.raise_signal(number)
        return compute(*arguments)

    monkeypatch.setattr(train_char_lm, "loss_and_gradient", loss_and_gradient)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("cell", "dtype", "more"),
    [
        ("lstm", "float32", ()),
        ("rnn", "float64", ()),
        ("gru", "float64", ("--layers", "2", "--dropout", "0.2")),
    ],
)
def test_training__stopped_and_resumed_ends_with_the_same_bits(run, tmp_path, monkeypatch, cell, dtype, more, number):
    options = "--steps", "7", "--cell", cell, "--dtype", dtype, *more
    assert run(*options, out="whole") == 0
    with monkeypatch.context() as patch:
        stop_at_step(patch, 3, number)
        assert run(*options, out="parts") == 128 + number
    assert run("--resume", out="parts") == 0

    with np.load(tmp_path / "whole/checkpoint.npz") as whole, np.load(tmp_path / "parts/checkpoint.npz") as parts:
        assert whole["weights"].dtype == dtype
        for name in ("weights", "adam_mean", "adam_square", "losses"):
            np.testing.assert_array_equal(parts[name], whole[name], strict=True)


def test_training__learns_a_regular_text(run, tmp_path, capsys):
    assert (
        run("--steps", "300", "--window", "20", "--hidden", "24", "--learning-rate", "0.02", "--prompt", r"\ndef") == 0
    )
    with np.load(tmp_path / "out/checkpoint.npz") as checkpoint:
        losses, validations = checkpoint["losses"], checkpoint["validations"]
    assert losses[0] > 2
    assert losses[-10:].mean() < 0.7
    assert validations[-1, 1] < 0.3
    assert (tmp_path / "out/sample.txt").read_text(encoding="utf-8").startswith("\ndef f(x):\n    return")
    assert (tmp_path / "out/loss.png").read_bytes().startswith(b"\x89PNG")
    assert "ratio" in capsys.readouterr().out


@pytest.mark.parametrize("functions", [rnnkernels, reference], ids=["rnnkernels", "reference"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "rnn", "gru"])
def test_gradient__is_that_of_the_loss(cell, layers, functions):
    rng = np.random.default_rng(0)
    dropout = 0.3 if layers > 1 and functions is rnnkernels else 0.0
    settings = train_char_lm.Settings(cell=cell, layers=layers, dropout=dropout, dtype="float64", embedding=3, hidden=4)
    shapes = train_char_lm.weight_shapes(settings, 5)
    flat = train_char_lm.initial_weights(settings, 5, rng)
    flat += 0.1 * rng.standard_normal(flat.size)
    x, y = rng.integers(5, size=(2, 2, 6))
    direction = rng.standard_normal(flat.size)

    def loss_and_gradient(move):
        weights = train_char_lm.split(flat + move * direction, shapes)
        drops = np.random.default_rng(4) if dropout else None
        return train_char_lm.loss_and_gradient(functions, settings, weights, x, y, drops)

    _, gradient = loss_and_gradient(0)
    slope = (loss_and_gradient(1e-5)[0] - loss_and_gradient(-1e-5)[0]) / 2e-5
    assert gradient @ direction == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("cell", ["lstm", "rnn", "gru"])
def test_model__of_the_functions_is_that_of_the_layers(cell):
    rng = np.random.default_rng(0)
    settings = train_char_lm.Settings(cell=cell, layers=3, dropout=0.5, dtype="float64", embedding=3, hidden=4)
    flat = train_char_lm.initial_weights(settings, 5, rng)
    weights = train_char_lm.split(flat, train_char_lm.weight_shapes(settings, 5))
    x, y = rng.integers(5, size=(2, 2, 6))
    ours, plain = (train_char_lm.loss_and_gradient(m, settings, weights, x, y) for m in (rnnkernels, reference))
    assert ours[0] == pytest.approx(plain[0], rel=1e-12)
    np.testing.assert_allclose(ours[1], plain[1], rtol=1e-9, atol=1e-13)


def test_sample__is_what_the_model_makes_most_likely():
    settings = train_char_lm.Settings(cell="gru", layers=2, embedding=3, hidden=4)
    flat = train_char_lm.initial_weights(settings, 5, np.random.default_rng(0))
    weights = train_char_lm.split(flat, train_char_lm.weight_shapes(settings, 5))
    written = train_char_lm.write_sample(settings, weights, "abcd?", "ab", 6, 1e-6, 0)
    x = train_char_lm.encode(written, "abcd?")[np.newaxis]
    recurrent = train_char_lm.recurrent_layers(reference, settings, weights)
    out, _ = train_char_lm.scores(reference, recurrent, weights, x, None)
    assert written[:2] == "ab"
    np.testing.assert_array_equal(out[0, 1:-1].argmax(axis=1), x[0, 2:])


def test_dropout__without_layers_to_act_between_ends_before_it_begins(run):
    with pytest.raises(SystemExit, match="--dropout acts between layers"):
        run("--dropout", "0.2")


def test_weights__open_the_gates_that_keep_the_state():
    for cell, places in (("lstm", slice(6, 12)), ("gru", slice(6, 12)), ("rnn", slice(0, 0))):
        settings = train_char_lm.Settings(cell=cell, layers=2, embedding=3, hidden=6)
        weights = train_char_lm.initial_weights(settings, 5, np.random.default_rng(0))
        named = train_char_lm.split(weights, train_char_lm.weight_shapes(settings, 5))
        for b in (named["b_l0"], named["b_l1"]):
            assert (b[places] == 1).all()
            assert b.sum() == b[places].sum()


def test_training__keeps_the_checkpoint_before(run, tmp_path):
    run("--steps", "1")
    first = (tmp_path / "out/checkpoint.npz").read_bytes()
    run("--steps", "2")
    assert (tmp_path / "out/checkpoint.previous.npz").read_bytes() == first


def test_training__goes_on_with_a_larger_budget(run, tmp_path):
    run("--steps", "2")
    run("--resume", "--steps", "5")
    with np.load(tmp_path / "out/checkpoint.npz") as checkpoint:
        assert checkpoint["losses"].shape == (5,)


def test_resume__names_what_is_wrong(run, tmp_path, text):
    with pytest.raises(SystemExit, match="There is no checkpoint"):
        run("--resume")
    run("--steps", "1")
    with pytest.raises(SystemExit, match=r"--hidden 7 contradicts .*trained with 6"):
        run("--resume", "--hidden", "7")
    text.write_text(TEXT + "pass\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="The text is not the one"):
        run("--resume")
    checkpoint = tmp_path / "out/checkpoint.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(SystemExit, match="is not a checkpoint that this script can read"):
        run("--resume")


@pytest.mark.parametrize("name", ["weights", "adam_mean", "adam_square"])
def test_resume__of_weights_that_do_not_fit_says_so(run, tmp_path, name):
    run("--steps", "1")
    path = tmp_path / "out/checkpoint.npz"
    with np.load(path) as checkpoint:
        arrays = dict(checkpoint)
    for wrong in (arrays[name][:-3], arrays[name].astype(np.float64)):
        np.savez(path, **arrays | {name: wrong})
        with pytest.raises(SystemExit, match=r"of shape \(\d+,\) where its settings make float32 of shape"):
            run("--resume")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "argument --seed: must be at least 0, got -1"),
        (["--learning-rate", "inf"], "argument --learning-rate: must be above 0 and finite, got inf"),
    ],
)
def test_arguments__name_what_is_wrong(run, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as end:
        run(*options)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_text__names_what_is_wrong(run, tmp_path, text):
    text.write_text("short", encoding="utf-8")
    with pytest.raises(SystemExit, match="5 characters, too few"):
        run()
    text.unlink()
    with pytest.raises(SystemExit, match=r"Cannot read the text .*a text\.py"):
        run()


def test_out__names_what_is_wrong(run, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SystemExit, match="Cannot make the folder"):
        run(out="file")


def test_standard_library__is_read_in_one_order_and_without_tests():
    text = train_char_lm.read_standard_library(300_000)
    assert text == train_char_lm.read_standard_library(300_000)
    assert len(text) == 300_000
    assert "def " in text


def test_vocabulary__keeps_frequent_characters_and_folds_the_others():
    vocabulary = train_char_lm.choose_vocabulary("bbaaé\N{SNOWMAN}\N{REPLACEMENT CHARACTER}é", 4)
    assert vocabulary == "abé\N{REPLACEMENT CHARACTER}"
    assert train_char_lm.encode("baé\N{SNOWMAN}", vocabulary).tolist() == [1, 0, 2, 3]


def test_training__of_more_than_memory_ends_before_it_begins(run, tmp_path):
    with pytest.raises(SystemExit, match=r"40,00.* weights.* GB of memory.*smaller --hidden"):
        run("--hidden", "100000000")
    assert not list((tmp_path / "out").iterdir())

"""What a type checker tells a program that uses the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rnnkernels

PROGRAM = """
from typing import Any, assert_type

import numpy as np

import rnnkernels as rk
from rnnkernels import (
    GRUCache,
    GRUResetBeforeCache,
    LSTMCache,
    RNNCache,
    RNNReluCache,
    TemporalAffineCache,
    WordEmbeddingCache,
)


def rnn(x: Any, keep: bool) -> None:
    result = rk.rnn_forward(x, None, x, x, x)
    h, cache = result
    assert_type(cache, RNNCache | RNNReluCache)
    assert_type(result.cache, RNNCache | RNNReluCache)
    assert_type(result.state, rk.RNNState)
    assert_type(rk.rnn_forward(x, None, x, x, x, keep_cache=True).cache, RNNCache | RNNReluCache)
    assert_type(rk.rnn_forward(x, None, x, x, x, keep_cache=False).cache, None)
    assert_type(rk.rnn_forward(x, None, x, x, x, keep_cache=keep).cache, RNNCache | RNNReluCache | None)
    assert_type(rk.rnn_step_forward(x, x, x, x, x)[1], RNNCache | RNNReluCache)
    assert_type(rk.rnn_step_forward(x, x, x, x, x, keep_cache=False)[1], None)
    assert_type(rk.rnn_step_forward(x, x, x, x, x, keep_cache=keep)[1], RNNCache | RNNReluCache | None)
    dx, dh0, dWx, dWh, db = rk.rnn_backward(h, cache)
    h.mean(), cache.h.mean(), dx.mean()


def lstm(x: Any, keep: bool) -> None:
    result = rk.lstm_forward(x, None, x, x, x, c0=x)
    h, cache = result
    assert_type(cache, LSTMCache)
    assert_type(result.cache, LSTMCache)
    assert_type(result.state, rk.LSTMState)
    assert_type(rk.lstm_forward(x, None, x, x, x, keep_cache=False).cache, None)
    assert_type(rk.lstm_forward(x, None, x, x, x, keep_cache=keep).cache, LSTMCache | None)
    assert_type(rk.lstm_step_forward(x, x, x, x, x, x)[2], LSTMCache)
    assert_type(rk.lstm_step_forward(x, x, x, x, x, x, keep_cache=False)[2], None)
    assert_type(rk.lstm_step_forward(x, x, x, x, x, x, keep_cache=keep)[2], LSTMCache | None)
    cache.f.mean()


def gru(x: Any, keep: bool) -> None:
    result = rk.gru_forward(x, None, x, x, x, bh=x, reset_after=keep)
    h, cache = result
    assert_type(cache, GRUCache | GRUResetBeforeCache)
    assert_type(result.state, rk.GRUState)
    assert_type(rk.gru_forward(x, None, x, x, x, keep_cache=False).cache, None)
    assert_type(rk.gru_forward(x, None, x, x, x, keep_cache=keep).cache, GRUCache | GRUResetBeforeCache | None)
    assert_type(rk.gru_step_forward(x, x, x, x, x)[1], GRUCache | GRUResetBeforeCache)
    assert_type(rk.gru_step_forward(x, x, x, x, x, keep_cache=False)[1], None)
    assert_type(rk.gru_step_forward(x, x, x, x, x, keep_cache=keep)[1], GRUCache | GRUResetBeforeCache | None)
    cache.n.mean()


def others(x: Any, keep: bool) -> None:
    assert_type(rk.temporal_affine_forward(x, x, x)[1], TemporalAffineCache)
    assert_type(rk.temporal_affine_forward(x, x, x, keep_cache=False)[1], None)
    assert_type(rk.temporal_affine_forward(x, x, x, keep_cache=keep)[1], TemporalAffineCache | None)
    assert_type(rk.temporal_affine_softmax_loss(x, x, x, x, x)[2], np.ndarray)
    assert_type(rk.temporal_affine_softmax_loss(x, x, x, x, x, gradients=False)[2], None)
    assert_type(rk.word_embedding_forward(x, x)[1], WordEmbeddingCache)
    assert_type(rk.word_embedding_forward(x, x, keep_cache=False)[1], None)
    assert_type(rk.word_embedding_forward(x, x, keep_cache=keep)[1], WordEmbeddingCache | None)


rk.rnn_forward(1, 2, 3)  # wrong
rk.lstm_forward(1, 2, 3, 4, 5, keep_caches=False)  # wrong
rk.rnn_forward(1, 2, 3, 4, 5, keep_cache=False)[1].h  # wrong
"""


@pytest.mark.slow
def test_mypy__knows_what_the_functions_return(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--hide-error-context", "program.py"],
        cwd=tmp_path,
        # As if the package were installed, so that its `py.typed` counts.
        env={**os.environ, "PYTHONPATH": str(Path(rnnkernels.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")]
    found = {int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error: " in line}
    assert sorted(found) == wrong, result.stdout + result.stderr

"""Windows of long series: every step once, no more in memory than a window, and the gradients of whole sequences."""

import numpy as np
import pytest
from helpers import DTYPES, assert_same_bits

import rnnkernels
from rnnkernels import BPTTWindows


class File:
    """A series that can only be sliced, as one in an HDF5 file; it notes the most steps that were asked for."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.most = 0

    def __getitem__(self, steps):
        assert isinstance(steps, slice)
        part = self.values[steps]
        self.most = max(self.most, len(part))
        return part


def streams(windows):
    """Inputs and targets of each stream, joined over all windows."""
    parts = list(windows)
    return [
        tuple(np.concatenate([w[i][n, : w.lengths[n]] for w in parts]) for i in (0, 1)) for n in range(len(parts[0].x))
    ]


@pytest.mark.parametrize(("T", "N", "steps", "horizon"), [(2, 1, 1, 1), (23, 3, 4, 1), (24, 5, 3, 4), (30, 4, 99, 2)])
def test_windows__have_each_step_with_a_target_once_and_in_order(T, N, steps, horizon):
    series = np.arange(1.0, 2 * T + 1).reshape(T, 2)
    windows = BPTTWindows(series, N, steps, horizon=horizon)
    joined = streams(windows)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in joined]), series[:-horizon])
    np.testing.assert_array_equal(np.concatenate([y for _, y in joined]), series[horizon:])
    assert {len(x) for x, _ in joined} <= {(T - horizon) // N, (T - horizon) // N + 1}
    assert len(list(windows)) == len(windows)
    for x, y, lengths in windows:
        assert x.shape == y.shape == (N, max(lengths), 2)
        assert lengths.dtype == np.int64
        padding = np.arange(max(lengths)) >= lengths[:, np.newaxis]
        assert not x[padding].any()
        assert not y[padding].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "sliced"])
def test_windows__read_files_in_parts(rng, tmp_path, dtype, mapped):
    series = rng.standard_normal((1000, 3)).astype(dtype)
    np.save(tmp_path / "series.npy", series)
    file = np.load(tmp_path / "series.npy", mmap_mode="r") if mapped else File(series)
    windows = BPTTWindows(file, 4, 16, horizon=3)
    assert windows.series is file
    for of_file, of_array in zip(windows, BPTTWindows(series, 4, 16, horizon=3), strict=True):
        assert_same_bits(of_file.x, of_array.x)
        assert_same_bits(of_file.y, of_array.y)
        assert of_file.x.dtype == dtype
        assert not np.shares_memory(of_file.x, of_file.y)
    if not mapped:
        assert file.most == 16


@pytest.mark.parametrize(
    ("given", "asked", "got"),
    [
        (np.int16, None, np.float64),
        (np.int16, np.float32, np.float32),
        (np.float16, "float32", np.float32),
        (">f4", None, np.float32),
        (np.float32, np.float64, np.float64),
    ],
)
def test_dtype__is_that_of_the_series_or_the_one_that_is_asked_for(given, asked, got):
    series = np.arange(10).astype(given)[:, np.newaxis]
    windows = BPTTWindows(series, 1, 20, dtype=asked)
    [(x, y, _)] = windows
    assert windows.dtype == x.dtype == y.dtype == got
    np.testing.assert_array_equal(y[0, :, 0], np.arange(1, 10))
    [(x, _, _)] = BPTTWindows([[1], [2]], 1, 5)
    assert x.tolist() == [[[1.0]]]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("layer", [rnnkernels.RNN, rnnkernels.LSTM, rnnkernels.GRU])
def test_state__goes_on_from_window_to_window(rng, layer, layers):
    series = rng.standard_normal((41, 2))
    model = layer.create(2, 5, num_layers=layers, dtype=np.float64, rng=rng)
    state, parts = (), []
    for x, _, lengths in BPTTWindows(series, 3, 4):
        result = model.forward(x, *state, lengths=lengths, checkpoint_every=2)
        _, gradients = model.backward(np.ones_like(result.h), result.cache)
        assert all(gradient.any() for gradient in gradients.values())
        parts.append([h[:length] for h, length in zip(result.h, lengths, strict=True)])
        state = result.state
    wholes = [model.forward(series[np.newaxis, begin:end]) for begin, end in ((0, 14), (14, 27), (27, 40))]
    for n, whole in enumerate(wholes):
        assert_same_bits(np.concatenate([part[n] for part in parts]), whole.h[0])
        assert_same_bits(np.ascontiguousarray(state.h[..., n, :]), whole.state.h[..., 0, :])


def test_gradients__of_one_window_are_those_of_the_whole_sequence(rng):
    series = rng.standard_normal((8, 2))
    model = rnnkernels.GRU.create(2, 3, dtype=np.float64, rng=rng)
    [(x, _, lengths)] = BPTTWindows(series, 1, 7)
    result, whole = model.forward(x, lengths=lengths), model.forward(series[np.newaxis, :7])
    for got, want in zip(
        model.backward(result.h, result.cache)[1].values(),
        model.backward(whole.h, whole.cache)[1].values(),
        strict=True,
    ):
        assert_same_bits(got, want)


def test_windows__name_what_is_wrong():
    series = np.zeros((10, 2))
    for arguments, options, error, message in (
        ((np.zeros(10), 2, 3), {}, ValueError, r"`series` must have shape \(T, D\), 2 axes.*series\[:, np\.newaxis\]"),
        (
            (np.zeros((1, 10, 2)), 2, 3),
            {},
            ValueError,
            r"`series` must have shape \(T, D\), .*\(1, 10, 2\)",
        ),
        ((series.astype(np.float16), 2, 3), {}, TypeError, "got float16.*`dtype=np.float32`"),
        ((series.astype(complex), 2, 3), {"dtype": np.float64}, TypeError, r"got complex128\.$"),
        ((None, 2, 3), {}, TypeError, "`series` must be an array; got None"),
        ((series, 2, 3), {"dtype": np.int64}, TypeError, "`dtype` must be float32 or float64; got int64"),
        ((series, 0, 3), {}, ValueError, "`batch_size` must be at least 1"),
        ((series, 2, 0), {}, ValueError, "`steps` must be at least 1"),
        ((series, 2, 2.0), {}, TypeError, "`steps` must be an integer"),
        ((series, 2, 3), {"horizon": 0}, ValueError, "`horizon` must be at least 1"),
        ((series, 9, 3), {"horizon": 2}, ValueError, r"T >= batch_size \+ horizon = 11 steps.*got T = 10"),
    ):
        with pytest.raises(error, match=message):
            BPTTWindows(*arguments, **options)
    assert len(BPTTWindows(series, 9, 3)) == 1


def test_repr__tells_the_sizes():
    windows = BPTTWindows(np.zeros((10, 2), np.float32), 2, 3)
    assert repr(windows) == "BPTTWindows(T=10, D=2, batch_size=2, steps=3, horizon=1, dtype=float32)"
    assert repr(next(iter(windows))) == "BPTTWindow(x=float32 (2, 3, 2), lengths=[3 3])"

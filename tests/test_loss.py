"""Reductions of the loss, and the loss fused with the affine layer that makes its scores."""

import tracemalloc

import numpy as np
import pytest
from helpers import DTYPES, assert_all_close, assert_close, assert_same_bits, exact, numerical_gradient

import rnnkernels
from rnnkernels import _threads, loss, reference

LAYERS = [rnnkernels, reference]
NAMES = ["rnnkernels", "reference"]
REDUCTIONS = ["batchmean", "mean", "sum"]
SMALL = [(1, 1, 1, 1), (2, 3, 4, 5), (3, 70, 5, 33), (1, 13, 16, 17)]
LARGE = [(5, 60, 70, 300), (2, 300, 130, 129)]
EMPTY = [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)]


def make_problem(rng, sizes, dtype=np.float64, mask="boolean"):
    """Arguments of `temporal_affine_softmax_loss`."""
    N, T, D, V = sizes
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((N, T, D), (D, V), (V,)))
    masks = {
        "boolean": rng.random((N, T)) < 0.6,
        "weights": rng.random((N, T)) * (rng.random((N, T)) < 0.8),
        "all": np.ones((N, T), bool),
        "none": np.zeros((N, T)),
    }
    return x, w / np.sqrt(max(D, 1)).astype(dtype), b, rng.integers(0, V, (N, T)), masks[mask]


def separate(x, w, b, y, mask, **options):
    """The same by the three functions, with an array of all scores."""
    scores, cache = rnnkernels.temporal_affine_forward(x, w, b)
    total, dscores = rnnkernels.temporal_softmax_loss(scores, y, mask, **options)
    return total, *rnnkernels.temporal_affine_backward(dscores, cache)


def as_arrays(results):
    return [np.asarray(result) for result in results]


@pytest.mark.parametrize("layers", LAYERS, ids=NAMES)
def test_reduction__by_hand(layers):
    x = np.log(np.array([[[1.0, 3.0], [1.0, 1.0]], [[1.0, 1.0], [9.0, 1.0]]]))
    y, mask = np.array([[1, 0], [-5, 0]]), np.array([[1.0, 0.5], [0.0, 2.5]])
    total = -np.log(3 / 4) - 0.5 * np.log(1 / 2) - 2.5 * np.log(9 / 10)
    for reduction, divisor in (("batchmean", 2), ("mean", 4), ("sum", 1)):
        got, dx = layers.temporal_softmax_loss(x, y, mask, reduction=reduction)
        np.testing.assert_allclose(got, total / divisor)
        np.testing.assert_allclose(dx[0, 0], np.array([0.25, -0.25]) / divisor)
        np.testing.assert_allclose(dx[1, 1], 2.5 * np.array([-0.1, 0.1]) / divisor)


def test_reduction__is_batchmean_by_default(rng):
    x, _, _, y, mask = make_problem(rng, (3, 4, 19, 19))
    for got, want in zip(
        rnnkernels.temporal_softmax_loss(x, y, mask),
        rnnkernels.temporal_softmax_loss(x, y, mask, reduction="batchmean"),
        strict=True,
    ):
        assert_same_bits(np.asarray(got), np.asarray(want))


@pytest.mark.parametrize("layers", LAYERS, ids=NAMES)
@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (7, 90, 33, 131), *EMPTY])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss__of_no_steps_is_zero(rng, layers, sizes, reduction):
    x, w, b, y, mask = make_problem(rng, sizes, mask="none")
    for results in (
        layers.temporal_softmax_loss(np.zeros((*y.shape, sizes[3])), y, mask, reduction=reduction),
        layers.temporal_affine_softmax_loss(x, w, b, y, mask, reduction=reduction),
    ):
        for result in results:
            assert not np.any(result)


def test_mean__of_weights_that_add_up_to_zero_is_the_sum(rng):
    x, w, b, y, _ = make_problem(rng, (1, 2, 3, 4))
    mask = [[1.0, -1.0]]
    for got, want in zip(
        rnnkernels.temporal_affine_softmax_loss(x, w, b, y, mask, reduction="mean"),
        rnnkernels.temporal_affine_softmax_loss(x, w, b, y, mask, reduction="sum"),
        strict=True,
    ):
        assert_same_bits(np.asarray(got), np.asarray(want))


def test_reduction__must_be_known(rng):
    x, w, b, y, mask = make_problem(rng, (1, 2, 3, 3))
    for call in (
        lambda reduction: rnnkernels.temporal_softmax_loss(x, y, mask, reduction=reduction),
        lambda reduction: rnnkernels.temporal_affine_softmax_loss(x, w, b, y, mask, reduction=reduction),
    ):
        with pytest.raises(ValueError, match="`reduction` must be one of 'batchmean', 'mean', 'sum'; got 'average'"):
            call("average")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("mask", ["boolean", "weights"])
def test_reference_gradients__match_finite_differences(rng, reduction, mask):
    args = make_problem(rng, (2, 3, 3, 5), mask=mask)
    _, *gradients = reference.temporal_affine_softmax_loss(*args, reduction=reduction)
    for argument, gradient in zip(args, gradients, strict=False):
        expected = numerical_gradient(
            lambda: reference.temporal_affine_softmax_loss(*args, reduction=reduction)[0], argument, 1.0
        )
        np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [*SMALL, *LARGE])
@pytest.mark.parametrize("mask", ["boolean", "weights", "all"])
def test_fused_loss__matches_reference(rng, sizes, dtype, mask):
    args = make_problem(rng, sizes, dtype, mask)
    for reduction in REDUCTIONS:
        total, *gradients = rnnkernels.temporal_affine_softmax_loss(*args, reduction=reduction)
        expected, *wanted = reference.temporal_affine_softmax_loss(*exact(args[:3]), *args[3:], reduction=reduction)
        assert type(total) is dtype
        assert_close(np.asarray(total), np.asarray(expected), dtype)
        assert_all_close(gradients, wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [*SMALL, *LARGE, *EMPTY])
@pytest.mark.parametrize("mask", ["boolean", "weights", "all"])
def test_fused_loss__has_the_bits_of_the_three_functions(rng, sizes, dtype, mask):
    """`dw` and `db` have them where all steps count; else their sums have fewer terms."""
    args = make_problem(rng, sizes, dtype, mask)
    got = as_arrays(rnnkernels.temporal_affine_softmax_loss(*args, reduction="mean"))
    want = as_arrays(separate(*args, reduction="mean"))
    for a, b in zip(got if mask == "all" else got[:2], want, strict=mask == "all"):
        assert_same_bits(a, b)
    assert_all_close(got[2:], want[2:], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [*SMALL, *LARGE])
def test_fused_loss__has_the_same_bits_without_gradients(rng, sizes, dtype):
    args = make_problem(rng, sizes, dtype)
    total, *nothing = rnnkernels.temporal_affine_softmax_loss(*args, gradients=False)
    assert nothing == [None] * 3
    assert_same_bits(np.asarray(total), np.asarray(rnnkernels.temporal_affine_softmax_loss(*args)[0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [*SMALL, *LARGE])
@pytest.mark.parametrize("mask", ["boolean", "weights", "none"])
def test_fused_loss__has_the_same_bits_in_small_and_large_calls(rng, monkeypatch, sizes, dtype, mask):
    args = make_problem(rng, sizes, dtype, mask)
    results = []
    for is_small in (True, False):
        monkeypatch.setattr(loss, "is_small", lambda *_, answer=is_small: answer)
        results.append(as_arrays(rnnkernels.temporal_affine_softmax_loss(*args)))
    for got, want in zip(*results, strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("num_threads", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_loss__has_the_same_bits_on_any_number_of_threads(rng, whole_teams, dtype, num_threads):
    args = make_problem(rng, (5, 83, 37, 411), dtype, "weights")
    results = [as_arrays(rnnkernels.temporal_affine_softmax_loss(*args, num_threads=n)) for n in (1, num_threads)]
    for got, want in zip(*results, strict=True):
        assert_same_bits(got, want)
    assert max(whole_teams) == num_threads - 1


@pytest.mark.parametrize("sizes", [(2, 300, 33, 131), (3, 50, 20, 40)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_loss__has_the_same_bits_in_blocks_of_any_size(rng, monkeypatch, sizes, dtype):
    args = make_problem(rng, sizes, dtype, "weights")
    monkeypatch.setattr(loss, "is_small", lambda *_: False)
    results = []
    for rows, part, segment_flops in ((256, 64, 2e9), (64, 17, 1e5), (512, 300, 1.0)):
        monkeypatch.setattr(loss, "FUSED_BLOCK_ROWS", rows)
        monkeypatch.setattr(loss, "FUSED_PART_ROWS", part)
        monkeypatch.setattr(_threads, "SEGMENT_FLOPS", segment_flops)
        results.append(as_arrays(rnnkernels.temporal_affine_softmax_loss(*args)[1:]))
    for others in results[1:]:
        for got, want in zip(others, results[0], strict=True):
            assert_same_bits(got, want)


@pytest.mark.parametrize("layers", LAYERS, ids=NAMES)
@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (2, 300, 70, 131)])
def test_steps_that_do_not_count__may_hold_anything(rng, layers, sizes):
    x, w, b, y, mask = make_problem(rng, sizes)
    want = layers.temporal_affine_softmax_loss(x, w, b, y, mask)
    for number, label in ((np.nan, -1), (np.inf, 10**12)):
        x[~mask], y[~mask] = number, label
        for got, expected in zip(layers.temporal_affine_softmax_loss(x, w, b, y, mask), want, strict=True):
            np.testing.assert_array_equal(got, expected)
        assert not want[1][~mask].any()


@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (2, 300, 70, 131)])
def test_nan_in_a_step_that_counts__is_seen(rng, sizes):
    x, w, b, y, mask = make_problem(rng, sizes, mask="all")
    x[1, 2, 3] = np.nan
    total, dx, dw, db = rnnkernels.temporal_affine_softmax_loss(x, w, b, y, mask)
    assert np.isnan(total)
    assert np.isnan(dx[1, 2]).all()
    assert np.isfinite(np.delete(dx.reshape(-1, sizes[2]), sizes[1] + 2, axis=0)).all()
    assert np.isnan(dw).all()
    assert np.isnan(db).all()


def test_fused_loss__holds_no_array_of_all_scores(rng):
    N, T, D, V = 4, 600, 16, 2000
    x, w, b, y, mask = make_problem(rng, (N, T, D, V), np.float32, "all")
    rnnkernels.temporal_affine_softmax_loss(x, w, b, y, mask)
    for gradients in (True, False):
        tracemalloc.start()
        results = rnnkernels.temporal_affine_softmax_loss(x, w, b, y, mask, gradients=gradients)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        held = peak - sum(result.nbytes for result in results[1:] if gradients)
        assert held < 1.5 * loss.FUSED_BLOCK_ROWS * V * 4 < N * T * V * 4 / 6


def test_fused_loss__works_for_the_steps_that_count_only(rng):
    args = [*make_problem(rng, (4, 600, 16, 2000), np.float32, "none")]
    args[-1][:, :3] = 1
    tracemalloc.start()
    results = rnnkernels.temporal_affine_softmax_loss(*args)
    peak = tracemalloc.get_traced_memory()[1] - sum(result.nbytes for result in results[1:])
    tracemalloc.stop()
    assert peak < 20 * 2000 * 4 + 400_000  # twelve rows of scores, labels and weights; not 256 rows


@pytest.mark.parametrize("sizes", [(2, 3, 4, 4), (2, 300, 70, 131)])
@pytest.mark.parametrize("weight", [True, 0.5, np.nan])
def test_fused_loss__names_the_place_of_a_label_outside(rng, sizes, weight):
    x, w, b, y, _ = make_problem(rng, sizes)
    y[1, 2], V = sizes[3], sizes[3]
    with pytest.raises(IndexError, match=rf"`y`\[1, 2\] = {V} is outside 0 <= index < V = {V}"):
        rnnkernels.temporal_affine_softmax_loss(x, w, b, y, np.full(y.shape, weight))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.zeros((3, 4)), r"`x` must have shape \(N, T, D\), 3 axes"),
        ("w", np.zeros((5, 4)), r"`w` must have shape \(D, M\) = \(4, 5\).* pass `w.T`"),
        ("b", np.zeros((1, 5)), r"`b` must have shape \(M,\), 1 axes"),
        ("y", np.zeros((2, 2), int), r"`y` must have shape \(N, T\) = \(2, 3\) to match `x`"),
        ("mask", np.zeros((3, 2)), r"`mask` must have shape \(N, T\) = \(2, 3\) to match `x`"),
    ],
)
def test_fused_loss__names_the_wrong_shape(rng, name, value, message):
    named = dict(zip(("x", "w", "b", "y", "mask"), make_problem(rng, (2, 3, 4, 5)), strict=True))
    with pytest.raises(ValueError, match=message):
        rnnkernels.temporal_affine_softmax_loss(**(named | {name: value}))


@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (2, 300, 70, 131)])
def test_fused_loss__takes_what_is_read_only_or_strided_and_changes_nothing(rng, sizes):
    args = make_problem(rng, sizes, np.float32, "weights")
    want = rnnkernels.temporal_affine_softmax_loss(*args)
    copies = [array.copy() for array in args]
    for array in args:
        array.setflags(write=False)
    strided = [np.asfortranarray(array) for array in args]
    for given in (args, strided):
        for got, expected in zip(rnnkernels.temporal_affine_softmax_loss(*given), want, strict=True):
            np.testing.assert_array_equal(got, expected)
    for array, copied in zip(args, copies, strict=True):
        assert_same_bits(array, copied)


@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (3, 200, 40, 131)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_fused_loss__is_that_of_torch(rng, sizes, reduction):
    """By ignored labels, whose mean PyTorch takes over the others, and by weights of steps."""
    torch = pytest.importorskip("torch")
    x, w, b, y, mask = make_problem(rng, sizes)
    for weights in (mask, make_problem(rng, sizes, mask="weights")[-1]):
        leaves = [torch.tensor(array, requires_grad=True) for array in (x, w, b)]
        scores = (leaves[0] @ leaves[1] + leaves[2]).reshape(-1, sizes[3])
        labels = torch.tensor(np.where(weights != 0, y, -100).reshape(-1))
        if weights.dtype == np.bool_ and reduction != "batchmean":
            total = torch.nn.functional.cross_entropy(scores, labels, ignore_index=-100, reduction=reduction)
        else:
            losses = torch.nn.functional.cross_entropy(scores, labels, ignore_index=-100, reduction="none")
            total = (losses * torch.tensor(weights.reshape(-1).astype(float))).sum()
            total = total / {"batchmean": sizes[0], "mean": weights.sum(), "sum": 1}[reduction]
        total.backward()
        want = [total.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]
        got = rnnkernels.temporal_affine_softmax_loss(x, w, b, y, weights, reduction=reduction)
        for a, e in zip(got, want, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-13)

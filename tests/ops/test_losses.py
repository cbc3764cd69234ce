import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_jax.ops import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 11)).astype(np.float32) * 4
LABELS = RNG.integers(0, 11, 6)
DENSE = RNG.dirichlet(np.ones(11), 6).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_follow_timm(smoothing):
    torch = pytest.importorskip("torch")
    mixup = pytest.importorskip("timm.data.mixup")
    expected = mixup.mixup_target(torch.tensor(LABELS), 11, 1.0, smoothing)
    targets = losses.one_hot_targets(jnp.asarray(LABELS), 11, smoothing)
    assert targets.dtype == jnp.float32
    chex.assert_trees_all_close(targets, expected.numpy(), atol=1e-7)


def test_one_hot_targets_sum_to_one_and_match_optax():
    targets = losses.one_hot_targets(jnp.asarray(LABELS), 11, 0.3)
    chex.assert_trees_all_close(targets, optax.smooth_labels(jax.nn.one_hot(LABELS, 11), 0.3), atol=1e-7)
    chex.assert_trees_all_close(targets.sum(-1), np.ones(6), atol=1e-6)
    chex.assert_trees_all_close(
        losses.one_hot_targets(jnp.array([-1, 11]), 11, 0.11), np.full((2, 11), 0.01), atol=1e-8
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_matches_torch(smoothing):
    torch = pytest.importorskip("torch")
    logits, labels = torch.tensor(LOGITS), torch.tensor(LABELS)
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    targets = losses.one_hot_targets(jnp.asarray(LABELS), 11, smoothing)
    chex.assert_trees_all_close(losses.softmax_cross_entropy(LOGITS, targets), expected.numpy(), rtol=1e-5)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(DENSE), reduction="none")
    chex.assert_trees_all_close(losses.softmax_cross_entropy(LOGITS, DENSE), expected.numpy(), rtol=1e-5)


def test_softmax_cross_entropy_matches_float64():
    logits = LOGITS.astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chex.assert_trees_all_close(losses.softmax_cross_entropy(LOGITS, DENSE), -(DENSE * log_probs).sum(-1), rtol=2e-6)


@pytest.mark.parametrize("threshold", [None, 0.05, 0.0])
@pytest.mark.parametrize("sum_classes", [True, False])
def test_sigmoid_cross_entropy_matches_timm(threshold, sum_classes):
    torch = pytest.importorskip("torch")
    timm_loss = pytest.importorskip("timm.loss").BinaryCrossEntropy(
        smoothing=0.0, target_threshold=threshold, sum_classes=sum_classes
    )
    ours = losses.sigmoid_cross_entropy(
        LOGITS, DENSE, threshold=-1.0 if threshold is None else threshold, sum_classes=sum_classes
    )
    chex.assert_shape(ours, (6,))
    expected = timm_loss(torch.tensor(LOGITS), torch.tensor(DENSE)).item()
    chex.assert_trees_all_close(ours.mean(), expected, rtol=1e-5)


def test_sigmoid_cross_entropy_matches_float64():
    logits = LOGITS.astype(np.float64)
    p = 1 / (1 + np.exp(-logits))
    expected = -(DENSE * np.log(p) + (1 - DENSE) * np.log1p(-p))
    chex.assert_trees_all_close(losses.sigmoid_cross_entropy(LOGITS, DENSE), expected.sum(-1), rtol=2e-6)
    chex.assert_trees_all_close(
        losses.sigmoid_cross_entropy(LOGITS, DENSE, sum_classes=False), expected.mean(-1), rtol=2e-6
    )
    binary = (DENSE > 0.1).astype(np.float64)
    expected = -(binary * np.log(p) + (1 - binary) * np.log1p(-p)).sum(-1)
    chex.assert_trees_all_close(losses.sigmoid_cross_entropy(LOGITS, DENSE, threshold=0.1), expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.softmax_cross_entropy, np.array([0.0, 2e5])),
        (losses.sigmoid_cross_entropy, np.array([np.log(2), 2e5 + 88.0])),
    ],
)
def test_huge_logits_give_finite_losses_and_gradients(loss, expected):
    logits = jnp.array([[3e38, -3e38, 0.0], [-1e5, 1e5, 88.0]])
    targets = losses.one_hot_targets(jnp.array([0, 0]), 3)
    values, gradient = loss(logits, targets), jax.grad(lambda x: loss(x, targets).sum())(logits)
    chex.assert_tree_all_finite((values, gradient))
    chex.assert_trees_all_close(values, expected, rtol=1e-6)


def test_excluded_class_costs_nothing():
    logits, targets = jnp.array([[1.0, 2.0, -jnp.inf]]), jnp.array([[0.5, 0.5, 0.0]])
    expected = losses.softmax_cross_entropy(logits[:, :2], targets[:, :2])
    chex.assert_trees_all_close(losses.softmax_cross_entropy(logits, targets), expected)
    gradient = jax.grad(lambda x: losses.softmax_cross_entropy(x, targets).sum())(logits)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy])
def test_bfloat16_logits_are_upcast_first(loss):
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    assert loss(half, jnp.asarray(DENSE)).dtype == jnp.float32
    chex.assert_trees_all_equal(loss(half, jnp.asarray(DENSE)), loss(half.astype(jnp.float32), jnp.asarray(DENSE)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5))
def test_masked_mse_against_loops(seed, patches, pixels):
    rng = np.random.default_rng(seed)
    prediction, target = rng.normal(size=(2, 3, patches, pixels)).astype(np.float32)
    mask = rng.integers(0, 2, (3, patches)).astype(np.float32)
    values = losses.masked_mse(prediction, target, mask)
    for b in range(3):
        errors = []
        for patch in range(patches):
            if mask[b, patch]:
                pairs = zip(prediction[b, patch], target[b, patch], strict=True)
                errors.append(sum((float(p) - float(t)) ** 2 for p, t in pairs) / pixels)
        expected = sum(errors) / len(errors) if errors else 0.0
        np.testing.assert_allclose(values[b], expected, rtol=1e-5)


def test_masked_mse_ignores_visible_patches_and_is_computed_in_float32():
    prediction, target = RNG.normal(size=(2, 2, 4, 300)) * 100
    mask = np.array([[0, 1, 1, 0], [0, 0, 0, 0]])
    half = [jnp.asarray(x, jnp.bfloat16) for x in (prediction, target)]
    values, gradient = jax.value_and_grad(lambda p: losses.masked_mse(p, half[1], mask).sum())(half[0])
    exact = ((np.float64(half[0]) - np.float64(half[1])) ** 2).mean(-1)
    np.testing.assert_allclose(values, exact[0, 1:3].mean(), rtol=1e-5)
    assert values.dtype == jnp.float32
    chex.assert_tree_all_finite(gradient)
    assert np.asarray(gradient, np.float32)[mask == 1].all()
    assert not np.asarray(gradient, np.float32)[mask == 0].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 10))
def test_topk_correct_against_a_stable_sort(seed, num_classes, k):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (5, num_classes)).astype(np.float32)  # many ties
    labels = rng.integers(-1, num_classes + 1, 5)
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    chex.assert_trees_all_equal(losses.topk_correct(logits, labels, k), (order == labels[:, None]).any(-1))


def test_topk_correct_with_values_that_are_not_finite():
    nan, inf = np.nan, np.inf
    logits = jnp.array([[nan, nan, nan], [0.0, nan, 1.0], [0.0, inf, 1.0], [-inf, -inf, 0.0]])
    top1, top5 = (losses.topk_correct(logits, jnp.array([0, 2, 1, 2]), k) for k in (1, 5))
    chex.assert_trees_all_equal(top1, np.array([False, False, True, True]))
    chex.assert_trees_all_equal(top5, np.array([False, True, True, True]))


def test_topk_correct_agrees_with_lax_top_k_in_bfloat16():
    logits = jax.random.normal(jax.random.key(0), (64, 100)).astype(jnp.bfloat16)
    labels = jax.random.randint(jax.random.key(1), (64,), 0, 100)
    for k in (1, 5, 50):
        _, best = jax.lax.top_k(logits, k)
        chex.assert_trees_all_equal(losses.topk_correct(logits, labels, k), (best == labels[:, None]).any(-1))

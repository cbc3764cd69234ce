"""Classification losses and counts, computed in float32 whatever the dtype of the logits."""

import jax
import jax.numpy as jnp


def one_hot_targets(labels: jax.Array, num_classes: int, smoothing: float = 0.0) -> jax.Array:
    """Smoothed one-hot targets: 1 - smoothing + smoothing / K for the label, smoothing / K for every other class.

    Args:
        labels: integers [B]. A label outside [0, K) has no class: its row is smoothing / K everywhere.
        num_classes: K.
        smoothing: mass of the target spread evenly over all K classes (Szegedy et al., https://arxiv.org/abs/1512.00567),
            including the label's own, as in timm and torch.

    Returns:
        float32 [B, K].
    """
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32) * (1.0 - smoothing) + smoothing / num_classes


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-sum_k targets_k log softmax(logits)_k.

    Args:
        logits: float [B, K]; -inf excludes a class whose target is 0.
        targets: float [B, K], distributions over the classes.

    Returns:
        float32 [B], in nats.
    """
    targets = targets.astype(jnp.float32)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.where(targets == 0, 0.0, targets * log_probs).sum(-1)  # 0 log 0 is 0 here, not NaN


def sigmoid_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    threshold: float = -1.0,
    sum_classes: bool = True,
    positive_weights: jax.Array | float = 1.0,
) -> jax.Array:
    """Binary cross-entropy of every class against all others.

    Args:
        logits: float [B, K].
        targets: float [B, K] in [0, 1].
        threshold: targets above it become 1, all others 0, after smoothing and mixing, as in timm's BinaryCrossEntropy
            ("ResNet strikes back", https://arxiv.org/abs/2110.00476, and DeiT III); below 0: targets stay as they are.
        sum_classes: sum over the classes, as in big_vision; False: mean, as in torch.
        positive_weights: weights of the positive terms, one for all classes or [K], as torch's pos_weight.

    Returns:
        float32 [B], in nats.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    if threshold >= 0:
        targets = (targets > threshold).astype(jnp.float32)
    losses = -positive_weights * targets * jax.nn.log_sigmoid(logits) - (1.0 - targets) * jax.nn.log_sigmoid(-logits)
    return losses.sum(-1) if sum_classes else losses.mean(-1)


def masked_mse(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error over only the masked patches (MAE, He et al., 2022).

    Args:
        prediction, target: float [B, N, P], P numbers per patch.
        mask: float [B, N], 1 for the patches that count. Every sample has equally many, so that the mean of the result
            over samples is MAE's mean over all masked patches.

    Returns:
        float32 [B]; 0 if no patch counts.
    """
    errors = jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)).mean(-1)
    return (errors * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1.0)


def topk_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether the label is among the k classes with the largest logits.

    Equal logits are ordered by class index, the lower first, so exactly min(k, K) classes are among the first k. A NaN
    counts as larger than any number, and a label whose own logit is NaN is never correct: a diverged model scores 0.
    The label's rank is counted in one pass over the classes; nothing is sorted.

    Args:
        logits: float [B, K].
        labels: integers [B]; a label outside [0, K) is never correct.
        k: at least 1; if k >= K, every valid label is correct.

    Returns:
        bool [B].
    """
    classes = jnp.arange(logits.shape[-1])
    own = classes == labels[:, None]  # [B, K]
    score = jnp.where(own, logits, 0).sum(-1, keepdims=True)  # [B, 1]; a gather would be slower on TPUs
    ahead = ~(logits <= score) | ((logits == score) & (classes < labels[:, None]))
    return (ahead.sum(-1) < k) & own.any(-1) & ~jnp.isnan(score[:, 0])


def tops(num_classes: int) -> tuple[int, ...]:
    """The values of k for which top-k accuracy is reported: 1, and 5 if there are more than 5 classes."""
    return (1, 5) if num_classes > 5 else (1,)

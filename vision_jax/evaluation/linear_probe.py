"""Logistic regression on frozen features, of all training examples or of a few per class."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from vision_jax.errors import ConfigError
from vision_jax.evaluation.evaluation import Evaluation
from vision_jax.evaluation.features import FeatureExtractor, in_chunks, learned_source
from vision_jax.ops.losses import one_hot_targets, softmax_cross_entropy, topk_correct
from vision_jax.ops.sharding import BATCH_AXES

HELD_OUT = 5  # one example in five chooses the regulariser
SEED = 0  # for that choice and the few shots: the same examples whatever the run's seed
TOLERANCE = 1e-6  # a fit ends when the gradient's largest component is this small
SCRATCH = 2**26  # logits of a chunk of examples, over all devices


class LinearProbeEvaluator:
    """Top-1 of a linear classifier fitted to frozen training features.

    `top1`: with the regulariser from the field `l2` that, fitted to four fifths of the training examples, gives the best
    accuracy on the rest (in a tie, the lower loss); then it is fitted to all, as in CLIP (Radford et al., 2021,
    https://arxiv.org/abs/2103.00020, appendix A.3). `{n}shot_top1`: from n examples per class (all if a class has
    fewer), with the regulariser `shots_l2`, since nothing can be held out.

    Features are standardised with the mean and standard deviation of the fitted examples.
    """

    def __init__(self, at: Evaluation, *, train: str | tuple, l2: tuple, max_iter: int, shots: tuple, shots_l2: float):
        self.at, self.mesh = at, at.mesh
        self.train, source, self.numbers = learned_source(at, train)
        self.num_classes = source.num_classes
        check_settings(at.key, l2, max_iter, shots, shots_l2, self.num_classes, len(source))
        self.l2 = sorted(l2, reverse=True)  # each fit starts where the previous one, more strongly regularised, ended
        self.shots, self.shots_l2 = shots, shots_l2
        self.metrics = ("top1", "l2", *(f"{n}shot_top1" for n in self.shots))
        self.extract = FeatureExtractor(at.task, at.config, at.mesh)
        rows = NamedSharding(at.mesh, PartitionSpec(None, BATCH_AXES))
        self.replicated = replicated = NamedSharding(at.mesh, PartitionSpec())
        self.fit = jax.jit(
            functools.partial(fit, max_iter=max_iter),
            in_shardings=(replicated, rows, replicated),
            out_shardings=replicated,
        )
        self.score = jax.jit(score, in_shardings=(replicated, rows), out_shardings=replicated)

    def run(self, variables: dict) -> dict[str, float]:
        train = self.extract(variables, self.train)
        features, labels = self.extract(variables, self.at.spec)
        test = features, self.numbers[labels]
        top1, l2 = self.sweep(*train, *test)
        metrics = {"top1": top1, "l2": l2}
        for n in self.shots:
            drawn = draw_shots(train[1], n)
            metrics[f"{n}shot_top1"] = self.few_shots(*(part[drawn] for part in train), *test)
        return metrics

    def sweep(self, features, labels, test_features, test_labels) -> tuple[float, float]:
        """(top-1 on the test examples, the regulariser chosen on the held-out training examples)."""
        mean, std = moments(features)
        held_out = np.random.default_rng(SEED).permutation(len(labels)) % HELD_OUT == 0
        if held_out.all():
            raise ConfigError(f"{self.at.key} needs two readable images of {self.train!r} at least")
        data = self.on_devices((features - mean) / std, labels)
        part, rest = ((*data[:2], self.rows(mask.astype(np.float32))) for mask in (held_out, ~held_out))
        params, fitted = self.zeros(features), {}
        for l2 in self.l2:
            params = self.fit(params, rest, l2)
            loss, top1 = jax.device_get(self.score(params, part))
            fitted[float(top1), -float(loss), l2] = params
        best = max(fitted)
        params = self.fit(fitted[best], data, best[-1])
        return self.top1(params, (test_features - mean) / std, test_labels), best[-1]

    def few_shots(self, features, labels, test_features, test_labels) -> float:
        mean, std = moments(features)
        params = self.fit(self.zeros(features), self.on_devices((features - mean) / std, labels), self.shots_l2)
        return self.top1(params, (test_features - mean) / std, test_labels)

    def top1(self, params, features, labels) -> float:
        return float(self.score(params, self.on_devices(features, labels))[1])

    def zeros(self, features) -> dict:
        shapes = {"kernel": (features.shape[1], self.num_classes), "bias": (self.num_classes,)}
        return {name: jnp.zeros(shape, device=self.replicated) for name, shape in shapes.items()}

    def on_devices(self, features, labels) -> tuple:
        """Features [chunks, c, D], labels and weights [chunks, c] on the devices; padding has weight 0."""
        return self.rows(features), self.rows(labels), self.rows(np.ones(len(labels), np.float32))

    def rows(self, x: np.ndarray) -> jax.Array:
        return in_chunks(x, SCRATCH // self.num_classes, self.mesh)


def fit(params: dict, data: tuple, l2, max_iter: int = 1000, tolerance: float = TOLERANCE) -> dict:
    """Multinomial logistic regression by L-BFGS, starting from `params`: argmin mean cross-entropy + l2 / 2 |kernel|^2.

    That is scikit-learn's LogisticRegression with C = 1 / (l2 n); the bias is not regularised there either.

    Args:
        params: {"kernel": float32[D, K], "bias": float32[K]}.
        data: features float32[chunks, c, D], labels int32[chunks, c], weights float32[chunks, c].
        l2: float above 0.
        max_iter: the most iterations.
        tolerance: stop when the gradient's largest component is this small.
    """

    def objective(params):
        return score(params, data)[0] + l2 / 2 * jnp.sum(params["kernel"] ** 2)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def improve(carry):
        params, state, iteration, _ = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=objective)
        params = optax.apply_updates(params, updates)
        return params, state, iteration + 1, optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)

    def unfinished(carry):
        *_, iteration, gradient = carry
        return (iteration < max_iter) & (gradient > tolerance)  # a NaN gradient ends it, too

    return jax.lax.while_loop(unfinished, improve, (params, solver.init(params), 0, jnp.inf))[0]


def score(params: dict, data: tuple) -> tuple[jax.Array, jax.Array]:
    """(cross-entropy, top-1), float32[] each: weighted means over `data` as `fit` takes it."""

    @jax.checkpoint  # logits are recomputed for the gradient, so that only one chunk's are held at a time
    def add(sums, chunk):
        features, labels, weights = chunk
        logits = jnp.matmul(features, params["kernel"], precision="highest") + params["bias"]
        losses = softmax_cross_entropy(logits, one_hot_targets(labels, logits.shape[-1]))
        terms = jnp.stack([losses, topk_correct(logits, labels, 1), jnp.ones_like(losses)])
        return sums + (terms * weights).sum(1), None

    loss, top1, total = jax.lax.scan(add, jnp.zeros(3), data)[0]
    return loss / total, top1 / total


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation float32[D] of [n, D]; 1 for a feature that is constant up to rounding."""
    mean = features.mean(0, dtype=np.float64)
    std = np.sqrt(np.square(features - mean.astype(np.float32)).mean(0, dtype=np.float64))
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
    return mean.astype(np.float32), std.astype(np.float32)


def draw_shots(labels: np.ndarray, n: int) -> np.ndarray:
    """Indices of `n` examples per class, or all of a class that has fewer; larger `n` includes those of smaller."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[order], labels[order])
    return order[np.arange(len(order)) - starts < n]


def check_settings(
    key: str, l2: tuple, max_iter: int, shots: tuple, shots_l2: float, num_classes: int, num_examples: int
) -> None:
    for value in (*l2, shots_l2):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ConfigError(f"{key}.l2 and shots_l2 must be numbers above 0, got {value!r}")
    if not l2:
        raise ConfigError(f"{key}.l2 needs at least one number to choose from")
    if max_iter < 1:
        raise ConfigError(f"{key}.max_iter must be at least 1, got {max_iter}")
    for n in shots:
        if type(n) is not int or not 1 <= n <= num_examples // num_classes:
            raise ConfigError(
                f"{key}.shots must be numbers from 1 to {num_examples // num_classes}"
                f" ({num_examples} examples of {num_classes} classes), got {n!r}"
            )

"""Contrastive losses over the whole global batch, without ever holding its similarity matrix.

Each device has the rows of its own examples and sees all columns, a chunk at a time: embeddings are gathered (linear in
the batch), and similarities are recomputed for the gradient. So memory grows linearly with the batch, and only
embeddings and one number per example travel between devices.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vision_jax.ops.sharding import batch_axes

SCRATCH = 2**22  # similarities that a device holds at once
EXCLUDED = -1e30  # the logit of a masked column; finite, so that a batch without any valid example gives no NaN


@jax.custom_vjp
def softmax_contrastive_loss(image: jax.Array, text: jax.Array, scale: jax.Array, mask: jax.Array) -> jax.Array:
    """CLIP's loss for each pair: half the sum of the cross-entropies of finding its text and its image in the batch.

    With s = scale * image @ text.T it is (logsumexp_j s_ij + logsumexp_j s_ji) / 2 - s_ii (Radford et al., 2021, figure
    3); the mean over the valid examples is the loss of the batch.

    Args:
        image, text: float32[N, E], rows of length 1, sharded over the batch axes if a mesh is set.
        scale: float32[], the inverse temperature.
        mask: bool[N]. An invalid pair is not a negative of any other, and its loss is 0.

    Returns:
        float32[N], in nats.
    """
    return _softmax_forward(image, text, scale, mask)[0]


def _softmax_forward(image, text, scale, mask):
    def forward(axes, image, text, scale, mask):
        images, texts, masks = (_gather(x, axes) for x in (image, text, mask))
        own = scale * (image * text).sum(-1)
        image_loss = _log_sum_exp(image, texts, masks, scale, own)
        text_loss = _log_sum_exp(text, images, masks, scale, own)
        return jnp.where(mask, (image_loss + text_loss) / 2, 0.0), image_loss + own, text_loss + own

    losses, *lse = _on_batch_axes(forward, "rrsr", "rrr")(image, text, scale, mask)
    return losses, (image, text, scale, mask, *lse)


def _softmax_backward(residuals, cotangent):
    def backward(axes, image, text, scale, mask, image_lse, text_lse, g):
        g = jnp.where(mask, g, 0.0)

        def pull(rows, row_lse, columns, column_lse):
            """d loss / d (scale * rows): sum_j (g_i P_ij + g_j Q_ij) / 2 column_j - g_i column_i."""

            def add(total, chunk):
                column, lse, valid, column_g = chunk
                logits = _logits(rows, column, valid, scale)
                weights = g[:, None] * jnp.exp(logits - row_lse[:, None]) + column_g * jnp.exp(logits - lse)
                return total + _dot(weights, column) / 2, None

            chunks = _chunked((_gather(columns, axes), _gather(column_lse, axes), masks, gs), len(rows))
            total = jax.lax.scan(add, jnp.zeros_like(rows), chunks)[0]
            return jnp.where(mask[:, None], total - g[:, None] * columns, 0.0)

        masks, gs = _gather(mask, axes), _gather(g, axes)
        d_image, d_text = pull(image, image_lse, text, text_lse), pull(text, text_lse, image, image_lse)
        return scale * d_image, scale * d_text, _sum(image * d_image, axes)

    grads = _on_batch_axes(backward, "rrsrrrr", "rrs")(*residuals, cotangent)
    return *grads, None


softmax_contrastive_loss.defvjp(_softmax_forward, _softmax_backward)


@jax.custom_vjp
def sigmoid_contrastive_loss(
    image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array
) -> jax.Array:
    """SigLIP's loss for each image: binary cross-entropy of whether a text is its own, summed over all texts.

    With l = scale * image @ text.T + bias it is sum_j softplus(l_ij) - l_ii (Zhai et al., 2023,
    https://arxiv.org/abs/2303.15343, algorithm 1); the mean over the valid examples is the loss of the batch.

    Args:
        image, text, scale, mask: as in `softmax_contrastive_loss`.
        bias: float32[], added to every logit.

    Returns:
        float32[N], in nats.
    """
    return _sigmoid_forward(image, text, scale, bias, mask)[0]


def _sigmoid_forward(image, text, scale, bias, mask):
    def forward(axes, image, text, scale, bias, mask):
        def add(total, chunk):
            column, valid = chunk
            return total + jax.nn.softplus(_logits(image, column, valid, scale, bias)).sum(-1), None

        chunks = _chunked((_gather(text, axes), _gather(mask, axes)), len(image))
        sums = jax.lax.scan(add, jnp.zeros(len(image)), chunks)[0]
        return jnp.where(mask, sums - scale * (image * text).sum(-1) - bias, 0.0)

    return _on_batch_axes(forward, "rrssr", "r")(image, text, scale, bias, mask), (image, text, scale, bias, mask)


def _sigmoid_backward(residuals, cotangent):
    def backward(axes, image, text, scale, bias, mask, g):
        g = jnp.where(mask, g, 0.0)
        masks, gs = _gather(mask, axes), _gather(g, axes)

        def pull(rows, columns, weights_of):
            """d loss / d (scale * rows), and each row's sum of weights: d loss / d logits without the pairs' own term."""

            def add(totals, chunk):
                column, valid, column_g = chunk
                weights = jax.nn.sigmoid(_logits(rows, column, valid, scale, bias)) * weights_of(column_g)
                return (totals[0] + _dot(weights, column), totals[1] + weights.sum(-1)), None

            chunks = _chunked((_gather(columns, axes), masks, gs), len(rows))
            total, weights = jax.lax.scan(add, (jnp.zeros_like(rows), jnp.zeros(len(rows))), chunks)[0]
            return jnp.where(mask[:, None], total - g[:, None] * columns, 0.0), weights

        d_image, weights = pull(image, text, lambda _: g[:, None])
        d_text, _ = pull(text, image, lambda column_g: column_g[None])
        return scale * d_image, scale * d_text, _sum(image * d_image, axes), _sum(weights - g, axes)

    grads = _on_batch_axes(backward, "rrssrr", "rrss")(*residuals, cotangent)
    return *grads, None


sigmoid_contrastive_loss.defvjp(_sigmoid_forward, _sigmoid_backward)


def _on_batch_axes(function, inputs: str, outputs: str):
    """`function(axes, ...)` on each device's rows ("r") and on scalars ("s"); on all rows if no mesh divides them."""

    def run(*args):
        axes = batch_axes(len(args[0]))
        if not axes:
            return function((), *args)
        specs = {"r": PartitionSpec(axes), "s": PartitionSpec()}
        in_specs, out_specs = (tuple(specs[kind] for kind in kinds) for kinds in (inputs, outputs))
        return jax.shard_map(
            functools.partial(function, axes),
            in_specs=in_specs,
            out_specs=out_specs if len(out_specs) > 1 else out_specs[0],
            check_vma=False,  # scans start from the same values on all devices, but end with different ones
        )(*args)

    return run


def _gather(x, axes):
    return jax.lax.all_gather(x, axes, tiled=True) if axes else x


def _sum(x, axes):
    return jax.lax.psum(x.sum(), axes) if axes else x.sum()


def _dot(a, b):
    # The cost is negligible next to the towers, and a logit is up to 100 times the product.
    return jnp.matmul(a, b, precision="highest")


def _logits(rows, columns, valid, scale, bias=0.0):
    """Logits [r, c] of rows [r, E] and columns [c, E]; EXCLUDED in columns that are not valid [c]."""
    return jnp.where(valid, scale * _dot(rows, columns.T) + bias, EXCLUDED)


def _log_sum_exp(rows, columns, valid, scale, own):
    """float32[r]: logsumexp over the valid columns of scale * rows @ columns.T - own; accurate for small results, too."""

    def add(total, chunk):
        logits = _logits(rows, *chunk, scale) - own[:, None]
        return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=-1)), None

    return jax.lax.scan(add, jnp.full(len(rows), EXCLUDED), _chunked((columns, valid), len(rows)))[0]


def _chunked(columns: tuple, rows: int) -> tuple:
    """Arrays [N, ...] as [chunks, c, ...] with c * rows about SCRATCH; the end is padded with zeros (False)."""
    count = len(columns[0])
    chunks = -(-count * rows // SCRATCH)
    size = -(-count // chunks)
    chunks = -(-count // size)

    def split(x):
        return jnp.pad(x, [(0, chunks * size - count)] + [(0, 0)] * (x.ndim - 1)).reshape(chunks, size, *x.shape[1:])

    return tuple(map(split, columns))

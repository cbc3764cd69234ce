"""Trajectories of 20 steps beside PyTorch's and timm's optimizers, with groups as MAE's fine-tuning makes them."""

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vision_jax.config import base_config
from vision_jax.training.optimizer import make_optimizer
from vision_jax.training.param_groups import param_groups
from vision_jax.training.schedules import make_schedule

torch = pytest.importorskip("torch")

STEPS = 20


class MAELars:
    """MAE's util/lars.py, restated."""

    def __init__(self, groups):
        self.param_groups, self.mu = groups, {}

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                update = p.grad
                if p.ndim > 1:
                    update = update + group["weight_decay"] * p.data
                    ratio = 0.001 * torch.norm(p.data) / torch.norm(update)
                    update = update * (ratio if torch.norm(p.data) > 0 and torch.norm(update) > 0 else 1.0)
                self.mu[p] = 0.9 * self.mu.get(p, 0.0) + update
                p.data.sub_(group["lr"] * self.mu[p])


def torch_optimizer(name, groups):
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    if name in ("sgd", "nesterov"):
        return torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=name == "nesterov")
    if name == "lars":
        return MAELars(groups)
    lamb = pytest.importorskip("timm.optim").Lamb
    return lamb(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, max_grad_norm=1.0)


@pytest.mark.parametrize("name", ["adamw", "sgd", "nesterov", "lamb", "lars"])
def test_trajectory(name):
    config = base_config()
    config.batch_size = 1
    config.schedule = dict(base_lr=0.01, warmup="5 steps", min_lr=1e-4)
    config.optimizer = dict(b2=0.95, weight_decay=0.1, layer_decay=0.75, clip_norm=1.0 if name == "lamb" else 0.0)
    config.optimizer = dict(name="sgd", nesterov=True) if name == "nesterov" else dict(name=name)

    rng = np.random.default_rng(0)
    modules = ("patch_embed", "blocks_0", "blocks_1", "head")
    params = {m: {"kernel": rng.normal(size=(5, 4)), "bias": rng.normal(size=4)} for m in modules}
    params = jax.tree.map(np.float32, params)
    params["head"]["bias"][:] = 0
    schedule = make_schedule(config, total_steps=STEPS, num_examples=STEPS)
    optimizer = make_optimizer(config, params, schedule)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)

    theirs = {path: torch.nn.Parameter(torch.tensor(p)) for path, p in flatten_dict(params, sep="/").items()}
    groups = [
        {"params": [theirs[g.path]], "scale": g.lr_scale, "weight_decay": 0.1 if g.decays else 0.0}
        for g in param_groups(config, params)
    ]
    reference = torch_optimizer(name, groups)

    for t in range(STEPS):
        scale = 10.0 ** (t % 3 - 1)
        grads = {path: (scale * rng.normal(size=p.shape)).astype(np.float32) for path, p in theirs.items()}
        updates, state = update(unflatten_dict(grads, sep="/"), state, params)
        params = optax.apply_updates(params, updates)
        for group in reference.param_groups:
            group["lr"] = float(schedule(t)) * group["scale"]
        for path, p in theirs.items():
            p.grad = torch.tensor(grads[path])
        reference.step()
        for path, p in flatten_dict(params, sep="/").items():
            expected = theirs[path].detach().numpy()
            np.testing.assert_allclose(p, expected, rtol=2e-5, atol=2e-6, err_msg=f"{path} after step {t}")

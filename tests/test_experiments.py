"""The scripts under experiments/: run at small sizes, their counts held against the papers' formulas."""

import importlib.util
import itertools
import pathlib
import random
import re

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax.data import open_source
from vision_jax.evaluation.prompts import fill
from vision_jax.models.window_attention import WindowAttention

EXPERIMENTS = pathlib.Path(__file__).parent.parent / "experiments"


def load(path: str):
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, EXPERIMENTS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def complexity():
    return load("swin/complexity/complexity.py")


@pytest.fixture(scope="module")
def counts(complexity):
    """resolutions, and FLOPs of each program of the complexity experiment at each of them, with two layers."""
    resolutions = (112, 224, 448, 512)  # 512 pixels: 32 x 32 tokens, padded to 35 x 35
    models = complexity.make_models(2, jnp.float32)
    del models["swin_t"]
    compiled = [complexity.compile_all(models, side, jnp.dtype("float32")) for side in resolutions]
    return resolutions, {name: [complexity.flops(one[name][0]) for one in compiled] for name in compiled[0]}


def test_window_attention_is_linear_and_global_attention_quadratic(complexity, counts):
    resolutions, costs = counts
    for name, low, high in (("Swin, pairs", 0.95, 1.05), ("ViT, pairs", 1.9, 2.05), ("Swin, one stage", 0.95, 1.05)):
        assert all(low < exponent < high for exponent in complexity.exponents(resolutions, costs[name])), name
    fitted, first, last = complexity.exponents(resolutions, costs["ViT"])
    assert 1.0 < first < fitted < last < 2.0


def test_counts_are_those_of_the_paper(counts):
    """Equations 1 and 2 of Swin's paper and an MLP, with two FLOPs a multiply-add; softmax, norms and so on come on top."""
    resolutions, costs = counts
    tokens, width = (np.array(resolutions) // 16) ** 2, 192
    in_windows = np.array([49, 196, 784, 35**2])
    pairs = {"ViT": 4 * tokens**2 * width, "Swin": 4 * 49 * in_windows * width}
    patches = 2 * tokens * 768 * width
    linear = 2 * (2 * 12 * tokens * width**2) + patches
    padding = 2 * 2 * 4 * (in_windows - tokens) * width**2  # that Swin projects, too
    for name, expected in (
        ("ViT, pairs", pairs["ViT"]),
        ("Swin, pairs", pairs["Swin"]),
        ("ViT", linear + 2 * pairs["ViT"]),
        ("Swin, one stage", linear + padding + 2 * pairs["Swin"]),
    ):
        ratio = np.array(costs[name]) / expected
        assert (ratio > 1.0).all() and (ratio < 1.05).all(), (name, ratio)


def test_pairs_are_those_of_the_models_layer(complexity):
    """With projections that change nothing, a shifted layer of the model is what the experiment measures alone."""
    x, table = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((1, 9, 9, 192), (13, 13, 3)))
    layer = WindowAttention(num_heads=3, window=(7, 7), shifted=True)
    identity = {"kernel": jnp.eye(192), "bias": jnp.zeros(192)}
    params = {"relative_position_bias_table": table, **dict.fromkeys(("query", "key", "value", "out"), identity)}
    heads = jnp.asarray(x).reshape(1, 9, 9, 3, 64)
    pairs = complexity.window_attention(heads, heads, heads, jnp.asarray(table))
    chex.assert_trees_all_close(layer.apply({"params": params}, x), pairs.reshape(x.shape), atol=1e-5)


def test_complexity_writes_its_tables_and_figure(complexity, tmp_path, capsys, monkeypatch):
    models = complexity.make_models(1, jnp.float32)
    del models["swin_t"]  # twelve layers to compile
    monkeypatch.setattr(complexity, "make_models", lambda depth, dtype: models)
    complexity.main(["--resolutions", "112", "224", "--rounds", "1", "--out", str(tmp_path)])
    report = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert report in capsys.readouterr().out
    assert report.count("| GFLOPs | ") == 5 and report.count("| milliseconds | ") == 5
    assert (tmp_path / "complexity.png").exists() == (importlib.util.find_spec("matplotlib") is not None)


def test_complexity_refuses_sizes_that_it_cannot_fit(complexity, capsys):
    for sizes in (["224"], ["224", "1024"], ["112", "224", "250"]):
        with pytest.raises(SystemExit):
            complexity.main(["--resolutions", *sizes])
        assert "multiples of 16" in capsys.readouterr().err


@pytest.fixture(scope="module")
def prompts():
    pytest.importorskip("sklearn")
    return load("clip/prompts/prompts.py")


def test_dice_show_their_number(prompts):
    ndimage = pytest.importorskip("scipy.ndimage")
    for seed in range(20):
        for face in prompts.FACES:
            grey = np.asarray(prompts.die(face, random.Random(seed)), np.float32)
            patches = ndimage.label(grey < np.percentile(grey, 75) / 2)[0]
            ground = np.concatenate([patches[0], patches[-1], patches[:, 0], patches[:, -1]])
            assert len(np.setdiff1d(patches, [0, *ground])) == face, (face, seed)


def test_no_template_and_no_context_of_the_prompts_is_in_a_caption(prompts):
    phrases = {*prompts.NEUTRAL, *prompts.PHRASES["digit"], *prompts.PHRASES["die"]}
    captions = {"".join(parts) for parts in itertools.product(prompts.OPENINGS, phrases, prompts.ENDINGS)}
    for context in ("", *prompts.CONTEXTS.values()):
        assert captions.isdisjoint(fill(template, "{}", context) for template in prompts.TEMPLATES)
    assert not any(context in caption for context in prompts.CONTEXTS.values() for caption in captions)


@pytest.mark.slow
def test_prompts_writes_its_data_and_its_tables(prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prompts, "TEMPLATES", prompts.TEMPLATES[:1])
    command = [f"--workdir={tmp_path}", "--seeds=1", "--config.duration=2 steps", "--config.schedule.warmup=1 steps"]
    command += [f"--config.model.{field}" for field in ("image.depth=1", "image.mlp_dim=24", "text_depth=1")]
    prompts.run(command)
    report = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert report in capsys.readouterr().out
    cells = re.findall(r"-?\d\.\d{3} \(-?\d\.\d{3} to -?\d\.\d{3}\)", report)
    assert len(cells) == 4 * (8 + 1)

    pictures = open_source(f"folder:{tmp_path / 'data/pictures'}")
    share = [
        np.mean([pictures.class_names[label].startswith(kind) for label in pictures.labels])
        for kind in ("digit", "die")
    ]
    assert len(pictures.class_names) == 16 and f"cannot be above {share[0]:.3f}" in report
    for number in prompts.NUMBERS[1:7]:  # as often as the digit, so that it is all one which of the two goes first
        counts = [pictures.labels.count(pictures.class_names.index(f"{kind}_{number}")) for kind in ("digit", "die")]
        assert counts[0] == counts[1] > 0
    pairs = open_source(f"wds:{tmp_path / 'data/train.tar'}")
    assert len(pairs) == 1437 + sum(open_source("digits:train").labels.count(face) for face in prompts.FACES)
    assert all(
        sum(name in pair["captions"][0] for name in prompts.NUMBERS) == 1 for pair in map(pairs.__getitem__, range(50))
    )

    monkeypatch.setattr(prompts, "classify", lambda *_: np.zeros((2, 2, 3)))
    prompts.run(command)
    assert "finished" in capsys.readouterr().out  # the data are what they were, and nothing is trained again


def test_prompts_tables_by_hand(prompts, monkeypatch):
    """Two seeds: no template, three templates and all of them; the first columns of the table."""
    monkeypatch.setattr(prompts, "TEMPLATES", prompts.TEMPLATES[:3])
    accuracy = np.zeros((2, 2, 2, 5))
    accuracy[:, 0, 0] = [[0.9, 0.5, 0.2, 0.3, 0.6], [0.8, 0.3, 0.5, 0.7, 0.4]]
    lines = prompts.markdown(accuracy, 0.625, "").splitlines()
    assert [line.split(" | ")[1] for line in lines if line.startswith("| ")][1:9] == [
        "0.850 (0.800 to 0.900)",
        "0.400 (0.300 to 0.500)",
        "0.250 (0.200 to 0.300)",
        "0.417 (0.333 to 0.500)",
        "0.600 (0.500 to 0.700)",
        "0.500 (0.400 to 0.600)",
        "0.083 (-0.100 to 0.267)",
        "0.100 (0.100 to 0.100)",
    ]


def test_tables_of_pods_are_those_of_the_records(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "pods")  # as a script has its own folder
    plan_all, weak_scaling = load("pods/plan_all.py"), load("pods/weak_scaling.py")
    text = (EXPERIMENTS / "pods" / "README.md").read_text()
    plans = plan_all.read_plans()
    assert set(plans) == set(plan_all.TOPOLOGIES) and all(plan["fits"] for plan in plans.values())
    assert plan_all.format_table(plans) in text
    rows = weak_scaling.read()
    assert weak_scaling.format_table(rows) in text
    for case in weak_scaling.CASES:
        of_case = [row for row in rows if row["name"] == case.name]
        flops = [row["flops_per_device"] for row in of_case]
        assert len(flops) == 4 and max(flops) < 1.02 * min(flops)
        for row in of_case:  # bounded by three all-reduces in bfloat16 of all parameters, which are float32
            parameters = row["memory"]["parameters"] * row["mesh"]["fsdp"]
            assert weak_scaling.received(row) < 3.1 * parameters, case.name

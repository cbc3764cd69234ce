"""Sections of the config whose part is chosen: their keys, and the entries of evals."""

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own import config_of

from vision_jax.config import base_config, from_dict, to_dict, to_json
from vision_jax.data import open_source
from vision_jax.errors import ConfigError
from vision_jax.evaluation import make_evaluators
from vision_jax.tasks import make_task
from vision_jax.training.partitioning import make_mesh
from vision_jax.training.setup import prepare


def sections():
    """(config, section, key that chooses, built-in field) of each section whose part may be imported."""
    c = base_config()
    return [
        (c, c.loss, (c, "task"), "label_smoothing"),
        (c, c.optimizer, (c.optimizer, "name"), "b1"),
        (c, c.schedule, (c.schedule, "decay"), "min_lr"),
        (c, c.evals.knn, (c.evals.knn, "kind"), "temperature"),
    ]


@pytest.mark.parametrize("which", range(4), ids=["loss", "optimizer", "schedule", "evals"])
def test_the_section_of_a_part_of_ones_own(which):
    c, section, (holder, key), field = sections()[which]
    built_in = holder[key]
    section[field] = 0.5
    with pytest.raises(ConfigError, match=r"unknown config key '.*beta'"):
        section.beta = 3
    holder[key] = "own:Part"
    assert field not in section and field not in to_dict(section)
    section.beta, section[field] = 3, "another meaning"
    assert section.own_fields == {"beta": 3, field: "another meaning"}
    for again in (copy.deepcopy(c), pickle.loads(pickle.dumps(c)), from_dict(json.loads(to_json(c)))):
        assert again == c and to_json(again) == to_json(c)
    del section.beta
    with pytest.raises(ConfigError, match="beta"):
        section.beta  # noqa: B018
    section.beta = 3
    holder[key] = built_in
    assert "beta" not in section and section[field] == base_value(c, section, field)


def base_value(c, section, field):
    """The default of a section's field."""
    fresh, names = base_config(), section._path.split(".")[:-1]
    for name in names:
        fresh = fresh[name]
    return fresh[field]


def test_another_part_of_ones_own_has_other_fields():
    c = config_of(loss={"gamma": 1.0})
    c.task = "own:Other"
    assert c.loss.own_fields == {}
    c.loss.delta = 2
    c.task = "own:Other"  # which it is already
    assert c.loss.own_fields == {"delta": 2}
    c.task = "regression"
    assert c.loss.own_fields == {"huber_delta": 0.0, "mean": (0.0,), "std": (1.0,)}


def test_a_model_of_another_name_keeps_what_was_set():
    """As a config file does that changes another's in a few places; fields that it has not are refused when it is made."""
    c = config_of()
    c.model = {"name": "mae_vit_b16", "mask_ratio": 0.5}
    c.model.name = "mae_vit_l16"
    assert c.model.mask_ratio == 0.5
    c.model.name = "own:Net"
    with pytest.raises(ConfigError, match="'own:Net' has no field 'mask_ratio'"):
        prepare(c)


@given(st.permutations(["task", "loss", "optimizer", "model"]), st.permutations(["name", "mine"]))
def test_keys_come_in_any_order(keys, inner):
    optimizer = {"name": "own:Rule", "mine": 3}
    said = {"task": "own:T", "loss": {"gamma": 1}, "optimizer": {key: optimizer[key] for key in inner}}
    c = from_dict({key: said[key] for key in keys if key in said})
    assert c.loss.gamma == 1 and c.optimizer.mine == 3
    assert to_json(c) == to_json(from_dict(said))


PART = st.sampled_from(["own:A", "own:B"])
SETTINGS = st.one_of(
    st.tuples(st.just("task"), PART | st.sampled_from(["classification", "regression", "contrastive"])),
    st.tuples(st.just("optimizer"), st.fixed_dictionaries({"name": PART | st.sampled_from(["sgd", "adamw"])})),
    st.tuples(st.sampled_from(["loss", "optimizer", "schedule"]), st.dictionaries(
        st.sampled_from(["mine", "other", "momentum", "label_smoothing", "huber_delta"]), st.sampled_from([0.5, 1.0]))),
    st.tuples(st.just("evals"), st.dictionaries(st.sampled_from(["knn", "half", "more"]), st.none() | st.fixed_dictionaries(
        {}, optional={"kind": PART | st.sampled_from(["knn", "classification"]), "k": st.integers(1, 9), "mine": st.text("ab")}))),
)  # fmt: skip


@given(st.lists(SETTINGS, max_size=8))
def test_whatever_was_set_comes_back_from_json_and_copies(settings):
    c = base_config()
    for key, value in settings:
        try:
            c[key] = value
        except ConfigError as error:
            assert "\n" not in str(error)
    saved = json.loads(to_json(c))
    for again in (from_dict(saved), copy.copy(c), pickle.loads(pickle.dumps(c))):
        assert again == c and json.loads(to_json(again)) == saved
    assert {name for name, entry in to_dict(c)["evals"].items() if entry is None} == set()


def made(c):
    task = make_task(c, open_source("own:Blobs"))
    return make_evaluators(task, task.config, make_mesh(c))


def test_several_evaluations_of_one_kind():
    c = config_of()
    c.evals.few = {"kind": "knn", "k": 1, "every": "2 epochs"}
    c.evals["many"] = {"kind": "knn", "k": 3, "source": "own:Blobs:4", "train": "own:Blobs:12"}
    assert (c.evals.few.temperature, c.evals.many.every, c.evals.knn.every) == (0.07, "5 epochs", "")
    with pytest.raises(ConfigError, match=r"evals\.few\.kk.*did you mean 'k'"):
        c.evals.few.kk = 3
    found = made(c)
    assert list(found) == ["classification", "few", "many"]
    assert (found["many"].at.spec, found["few"].at.spec) == ("own:Blobs:4", "own:Blobs")
    c.evals = {"few": None, "classification": None}
    assert "few" not in c.evals and c.evals.classification.every == "" and list(made(c)) == ["many"]
    c.evals.nothing = None
    assert "nothing" not in c.evals


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"source": "own:Blobs"}, r"config\.evals\.some\.kind is not set"),
        ({"kind": "retrieval"}, "config.evals.some has kind 'retrieval', but task 'own:Weighted' offers only classification"),
        ({"kind": "knn", "source": "shapes:test"}, r"config\.evals\.some needs data with classes, and 'shapes:test'"),
        ({"kind": "own:Nothing"}, r"config\.evals\.some\.kind='own:Nothing': 'own' has no 'Nothing'"),
        (3, r"config key 'evals\.some' is a section"),
        ({"kind": 3}, r"config key 'evals\.some\.kind' must be str"),
    ],
)  # fmt: skip
def test_evaluations_that_cannot_be(entry, words):
    c = config_of()
    with pytest.raises(ConfigError, match=words):
        c.evals.some = entry
        made(c)


@pytest.mark.parametrize("name", ["train", "eval", "seconds"])
def test_names_that_other_metrics_have(name):
    c = config_of()
    c.evals[name] = {"kind": "classification"}
    with pytest.raises(ConfigError, match=rf"config\.evals\.{name}: '{name}/\.\.\.' are other metrics"):
        made(c)


def test_an_evaluation_with_nothing_to_measure_on():
    c = config_of()
    c.data.eval = ""
    with pytest.raises(
        ConfigError, match=r"evals\.classification has nothing .*: set config\.evals\.classification\.source"
    ):
        made(c)
    c.evals.classification.source = "own:Blobs"
    assert list(made(c)) == ["classification"]

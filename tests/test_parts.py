"""Names that import, in every place of a config that takes one, and what is said where one does not."""

import copy
import dataclasses
import json
import pickle
import sys
import types
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_jax import parts
from vision_jax.config import base_config, from_dict, to_dict, to_json
from vision_jax.data import open_source
from vision_jax.data.pipeline import train_batches
from vision_jax.data.reading import Field
from vision_jax.data.tokenizers import open_tokenizer
from vision_jax.errors import ConfigError
from vision_jax.evaluation import make_evaluator, make_evaluators
from vision_jax.models import create_model
from vision_jax.tasks import make_task
from vision_jax.tasks.classification import Classification
from vision_jax.training.partitioning import make_mesh
from vision_jax.training.setup import prepare


class Net(nn.Module):
    num_classes: int = 0
    width: int = 8
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Blobs:
    """Dark and light pictures; the length is text, as it comes out of a name."""

    class_names = ("dark", "light")

    def __init__(self, length="8"):
        self.length = int(length)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 3), 200 * (index % 2), np.uint8), "label": index % 2}


class Weighted(Classification):
    def __init__(self, config, labels, *, gamma: float = 2.0, **others):
        super().__init__(config, labels, **others)
        self.gamma = gamma


class Count:
    metrics = ("examples",)

    def __init__(self, at, *, times: int = 1):
        self.at, self.times = at, times

    def run(self, variables):
        return {"examples": self.times * sum(int(batch["mask"].sum()) for batch in self.at.batches())}


def letters(alphabet, context_length=None):
    return types.SimpleNamespace(alphabet=alphabet, context_length=context_length)


@pytest.fixture(autouse=True)
def own(monkeypatch, tmp_path):
    """The parts above as the module `own`; beside it modules that cannot be imported."""
    module = types.ModuleType("own")
    vars(module).update({each.__name__: each for each in (Net, Blobs, Weighted, Count, letters)})
    module.number, module.blobs = 3, Blobs(4)
    monkeypatch.setitem(sys.modules, "own", module)
    for name, text in (("fails", "1 / 0"), ("needs", "import nowhere_at_all"), ("lines", "raise ValueError('a\\nb')")):
        (tmp_path / f"{name}_to_import.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return module


def config_of(**keys):
    c = base_config()
    c.merge({"task": "own:Weighted", "model": {"name": "own:Net"}, "batch_size": 8, "duration": "2 steps", **keys})
    c.data = {"train": "own:Blobs:16", "eval": "own:Blobs", "image_size": 8}
    return c


def test_every_kind_of_part_by_a_name_that_imports():
    c = config_of(loss={"gamma": 3}, evals={"own": {"kind": "own:Count", "times": 2, "every": "1 epochs"}})
    c.evals.classification.every = ""
    setup = prepare(c)
    assert isinstance(setup.task, Weighted) and setup.task.gamma == 3.0 and len(setup.source) == 16
    assert setup.task.model == Net(num_classes=2) and setup.config.model.num_classes == 2
    made = make_evaluators(setup.task, setup.config, setup.mesh)
    assert made.keys() == {"own"} and made["own"].run({}) == {"examples": 16}
    assert create_model("own:Net", width=3).width == 3
    assert len(open_source("own:blobs")) == 4  # an object at hand
    assert vars(open_tokenizer("own:letters:abc", 7)) == {"alphabet": "abc", "context_length": 7}


FIND = {
    "config.task": lambda name: make_task(config_of(task=name), open_source("own:Blobs")),
    "config.model.name": create_model,
    "data source": open_source,
    "config.evals.some.kind": lambda name: evaluator(kind=name),
    "config.data.tokenizer": lambda name: open_tokenizer(name, 7),
}


def evaluator(**entry):
    c = config_of()
    c.evals.some = entry
    return make_evaluator("some", c.evals.some, None, c, make_mesh(c))


@pytest.mark.parametrize("key", FIND)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere_at_all.x:Part", "there is no module 'nowhere_at_all' here; install it, or put its folder on PYTHONPATH"),
        ("own.sub:Part", "there is no module 'own.sub' here"),
        ("fails_to_import:Part", "importing 'fails_to_import' ends in ZeroDivisionError: division by zero"),
        ("lines_to_import:Part", "importing 'lines_to_import' ends in ValueError: a"),
        ("needs_to_import:Part", "importing 'needs_to_import' needs the module 'nowhere_at_all', which is not there"),
        ("own:Nett", "'own' has no 'Nett'; did you mean 'Net'?"),
        ("given:other", "is an object that the run was given in Python"),
    ],
)  # fmt: skip
def test_a_part_that_cannot_be_had_is_one_line(key, name, words):
    with pytest.raises(ConfigError) as error:
        FIND[key](name)
    assert str(error.value).startswith(key) and repr(name) in str(error.value) and words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["config.task", "config.evals.some.kind"])
def test_a_name_that_is_not_built_in_is_no_module(key):
    with pytest.raises(ConfigError, match=r"must be one of .* or package\.module:Attribute; got 'clasification'; did"):
        FIND[key]("clasification")
    with pytest.raises(ConfigError, match="must be one of"):
        FIND[key]("own:")


def test_a_built_in_module_may_be_named_like_ones_own():
    assert type(create_model("vision_jax.models.vit:ViT")) is type(create_model("vit"))
    c = config_of(task="vision_jax.tasks.classification:Classification", loss={"label_smoothing": 0.25})
    assert make_task(c, open_source("own:Blobs")).label_smoothing == 0.25


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: create_model("own:Net", widht=3), "model 'own:Net' has no field 'widht'; did you mean 'width'?"),
        (lambda: create_model("own:Net", width="3"), "model 'own:Net': field 'width' must be int, got str '3'"),
        (lambda: create_model("own:number"), "config.model.name='own:number' is 3, which is no class or function"),
        (lambda: evaluator(kind="own:number"), "config.evals.some.kind='own:number' is 3, which is no class or function"),
        (lambda: make_task(config_of(loss={"gama": 1.0}), open_source("own:Blobs")), "'own:Weighted' has no field 'gama'; did you mean 'gamma'?"),
        (lambda: make_task(config_of(loss={"gamma": "x"}), open_source("own:Blobs")), "field 'gamma' must be float, got str 'x'"),
        (lambda: evaluator(kind="own:Count", tims=2), "config.evals.some has no field 'tims'; did you mean 'times'?"),
        (lambda: evaluator(kind="own:Count", times=2.5), "config.evals.some: field 'times' must be int, got float 2.5"),
        (lambda: evaluator(source="digits:test"), "config.evals.some.kind is not set: one of classification,"),
        (lambda: open_source("own:blobs:3"), "data source 'own:blobs:3': 'Blobs' object is not callable"),
        (lambda: open_source("own:number"), "data source='own:number' is 3, which is no class or function"),
        (lambda: open_source("own:letters:3"), "data source 'own:letters:3' is a SimpleNamespace without __len__"),
        (lambda: open_source("digis:train"), "no such data source: 'digis:train'; did you mean 'digits'?"),
        (lambda: open_tokenizer("own", 7), "no such tokenizer: 'own'"),
    ],
)  # fmt: skip
def test_fields_that_a_part_has_not(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)


class Base:
    def __init__(self, config, *, name: str = "a", size: int = 1): ...


class Derived(Base):
    def __init__(self, config, *, size: float = 2.0, needed: tuple[int, int], **others): ...


@dataclasses.dataclass
class Data:
    width: int
    names: tuple[str, ...] = ()
    hidden: int = dataclasses.field(default=0, init=False)


def test_fields_are_what_a_part_takes_by_name():
    missing = dataclasses.MISSING
    assert parts.fields_of(Derived) == {
        "size": (float, 2.0),
        "needed": (tuple[int, int], missing),
        "name": (str, "a"),
    }
    assert parts.fields_of(Data) == {"width": (int, missing), "names": (tuple[str, ...], ())}
    assert parts.fields_of(lambda x, y=3, *rest, z=4: 0) == {"y": (Any, 3), "z": (Any, 4)}
    assert parts.fields_of(Net).keys() == {"num_classes", "width", "rate"}


def test_values_become_what_the_fields_ask_for():
    values = parts.checked_fields("it", Derived, {"size": 3, "needed": [1, 2], "name": "b"})
    assert values == {"size": 3.0, "needed": (1, 2), "name": "b"} and type(values["size"]) is float
    for wrong, words in (
        ({}, "it needs its field 'needed'"),
        ({"needed": (1,)}, r"it: field 'needed' takes 2 numbers, got \(1,\)"),
        ({"needed": (1, "2")}, "it: field 'needed' must be int, got str '2'"),
        ({"needed": (1, 2), "config": 3}, "it has no field 'config'; known: name, needed, size"),
    ):
        with pytest.raises(ConfigError, match=words):
            parts.checked_fields("it", Derived, wrong)


scalars = st.sampled_from([int, float, bool, str, type(None)])
hints = st.one_of(
    scalars,
    scalars.map(lambda kind: tuple[kind, ...]),
    st.tuples(scalars, scalars).map(lambda kinds: tuple[kinds]),
    st.tuples(scalars, scalars).filter(lambda kinds: kinds[0] != kinds[1]).map(lambda kinds: kinds[0] | kinds[1]),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)


def fits(hint, value) -> bool:
    """Whether a value is what a hint says, an int in a float's place included."""
    if isinstance(hint, types.UnionType):
        return any(fits(each, value) for each in hint.__args__)
    if not hasattr(hint, "__origin__"):
        return type(value) is hint or (hint is float and type(value) is int)
    if type(value) is not tuple:
        return False
    kinds = hint.__args__
    kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
    return len(kinds) == len(value) and all(map(fits, kinds, value))


@given(hints, values)
def test_a_value_is_taken_just_where_it_fits(hint, value):
    try:
        taken = parts.checked("it", hint, value)
    except ConfigError as error:
        assert not fits(hint, value) and str(error).startswith("it ")
    else:
        assert fits(hint, value) and taken == value


def test_hints_that_no_one_can_resolve_check_nothing():
    def part(*, size: "Nowhere" = 1): ...  # noqa: F821

    assert parts.checked_fields("it", part, {"size": "any"}) == {"size": "any"}


def test_an_object_stands_for_its_name_inside_alone():
    with parts.given({"some": Blobs(3)}), parts.given({"other": Blobs(5)}):
        assert (len(open_source("given:some")), len(open_source("given:other"))) == (3, 5)
    with pytest.raises(ConfigError, match=r"'given:some' is an object .* give it to vj\.train or vj\.open_run"):
        open_source("given:some")


# Sections of parts of one's own


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


# Entries of evals


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


# Sources of one's own


class Bare:
    """What a source must have and no more."""

    def __init__(self, example):
        self.example = example

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.example


def test_what_a_source_leaves_out_has_a_usual_answer():
    image = np.zeros((8, 8, 3), np.uint8)
    with parts.given({"bare": Bare({"image": image})}):
        source = open_source("given:bare")
        assert (source.num_classes, source.class_names, source.target_names, source.labels) == (0, (), (), [])
        assert source[2]["name"] == "given:bare[2]" and len(source) == 3 and len(open_source("given:bare[:40%]")) == 1
        for index in (-1, 3):
            with pytest.raises(IndexError):
                source[index]
    named = open_source("own:Blobs:10")
    assert (named.num_classes, named.class_names, len(named)) == (2, ("dark", "light"), 10)
    assert len(pickle.loads(pickle.dumps(named))) == 10


@pytest.mark.parametrize("example", [3, (np.zeros((8, 8, 3)), 1), {"picture": 3}], ids=["number", "pair", "no image"])
def test_an_example_that_is_none_is_named(example):
    message = "'given:bare': example 1 is no dictionary with an 'image'"
    with parts.given({"bare": Bare(example)}), pytest.raises(ConfigError, match=message):
        open_source("given:bare")[1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(3, np.float32), r"have 'depth' as float32\[2\] an example, and its reader gave float32\[3\]"),
        (np.zeros(2, complex), r"gave complex128\[2\]"),
        (None, r"gave object\[\]"),
        ([1, 2], ""),
    ],
)
def test_an_array_that_does_not_fit_its_field(value, words):
    c, fields = config_of(), {"depth": Field((2,), np.float32)}

    def first():
        with train_batches(
            c, seed=0, start_step=0, fields=fields, reader=lambda example, rng: {"depth": value}
        ) as made:
            return next(made)["depth"]

    if words:
        with pytest.raises(ConfigError, match=words):
            first()
    else:
        np.testing.assert_array_equal(first(), np.tile(np.float32([1, 2]), (8, 1)))


def test_a_task_that_asks_for_what_its_own_model_has_not():
    c = config_of()
    c.model = {"name": "own:Net", "width": 4}
    variables = jax.eval_shape(prepare(c).task.init, jax.random.key(0), {"image": np.zeros((1, 8, 8, 3), np.uint8)})
    assert variables["params"]["Dense_0"]["kernel"].shape == (3, 2)
    c.model = {"num_classes": 1}
    with pytest.raises(ConfigError, match="num_classes=1 is fewer than the 2 classes"):
        prepare(c)

"""Names that import, in every place of a config that takes one, and what is said where one does not."""

import dataclasses
import types
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from own import Blobs, Net, Weighted, config_of

from vision_jax import parts
from vision_jax.data import open_source
from vision_jax.data.tokenizers import open_tokenizer
from vision_jax.errors import ConfigError
from vision_jax.evaluation import make_evaluator, make_evaluators
from vision_jax.models import create_model
from vision_jax.tasks import make_task
from vision_jax.training.partitioning import make_mesh
from vision_jax.training.setup import prepare


@pytest.fixture(autouse=True)
def modules_that_fail(monkeypatch, tmp_path):
    for name, text in (("fails", "1 / 0"), ("needs", "import nowhere_at_all"), ("lines", "raise ValueError('a\\nb')")):
        (tmp_path / f"{name}_to_import.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


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
        return type(value) is hint or (hint is float and type(value) is int and float(value) == value)
    if type(value) is not tuple:
        return False
    kinds = hint.__args__
    kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
    return len(kinds) == len(value) and all(map(fits, kinds, value))


@given(hints, values)
@example(float, 2**53 + 1)
@example(float, 2**70)
@example(tuple[float, ...], (1, 2**53 + 1))
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

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_jax.errors import ConfigError
from vision_jax.evaluation.prompts import (
    TEMPLATES,
    ClassName,
    check_templates,
    class_prompts,
    fill,
    open_classes,
    open_templates,
)

NAMES = ("boxer", "golden_retriever", "crane")


@pytest.fixture
def write(tmp_path):
    def write(content, name="file.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    "template, context, expected",
    [
        ("a photo of a {}.", "a type of dog", "a photo of a boxer, a type of dog."),
        ("a photo of a {}", "a type of dog", "a photo of a boxer, a type of dog"),
        ("a photo of a {}.", "", "a photo of a boxer."),
        ("{}", "a type of dog", "boxer, a type of dog"),
        ("a {} ({context}) in the snow.", "a type of dog", "a boxer (a type of dog) in the snow."),
        ("{context}: {}", "dogs", "dogs: boxer"),
        ("a {}.", "one of {} and {context}.", "a boxer, one of {} and {context}.."),
    ],
)
def test_names_and_contexts_take_their_places(template, context, expected):
    assert fill(template, "boxer", context) == expected


@given(st.text(), st.text(), st.text(), st.text())
def test_what_a_name_holds_is_never_a_place(before, after, name, context):
    if "{" in before + after or "}" in before + after:
        return
    assert fill(before + "{}" + after, name) == before + name + after
    stop = "." if after.endswith(".") else ""
    added = f", {context}" if context else ""
    assert fill(before + "{}" + after, name, context) == before + name + after.removesuffix(stop) + added + stop


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_built_in_sets_are_templates(name):
    templates = open_templates(name)
    assert check_templates(templates, name) == templates and len(set(templates)) == len(templates)
    assert all(template.isascii() and "7" in fill(template, "7") for template in templates)


def test_templates_from_a_file(write):
    templates = ["a {}.", "the {}, {context}", "größer als {}"]
    assert open_templates(write(templates)) == open_templates(write({"templates": templates})) == tuple(templates)


@pytest.mark.parametrize(
    "content, message",
    [
        (["a photo"], r"'a photo'"),
        (["{} and {}"], r"'\{\} and \{\}'"),
        (["a {c}."], r"'a \{c\}\.'"),
        (["a {} in {colour}"], r"place '\{colour\}'"),
        ([1], "got 1"),
        ([], "at least one"),
        ("{}", "must hold a list"),
        ({"prompts": ["{}"]}, "must hold a list"),
        ("[", "no proper JSON"),
    ],
)
def test_templates_that_are_none(content, message, write):
    path = write(content)
    with pytest.raises(ConfigError, match=message) as error:
        open_templates(path)
    assert path in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("photo", "did you mean 'photos'"),
        ("imagenet", "known: digits, photos, plain"),
        ("missing/file.json", "No such file"),
        ("/", "it is a folder"),
    ],
)
def test_template_sets_that_are_not_there(spec, message):
    with pytest.raises(ConfigError, match=rf"evals\.zero_shot\.templates.*{message}"):
        open_templates(spec)


def test_a_source_names_its_classes_itself():
    assert open_classes("", NAMES, "pets") == (("boxer", ""), ("golden retriever", ""), ("crane", ""))


def test_names_in_order_or_by_the_source_s_names(write):
    dog = {"name": "boxer", "context": "a type of dog"}
    expected = (ClassName("boxer", "a type of dog"), ClassName("golden retriever", "a dog"), ClassName("a_bird"))
    assert open_classes(write([dog, {"context": "a dog"}, "a_bird"]), NAMES, "pets") == expected
    by_name = {"crane": "a_bird", "golden_retriever": {"context": "a dog"}, "boxer": dog}
    assert open_classes(write(by_name), NAMES, "pets") == expected
    assert open_classes(write(["crane"] * 3), NAMES, "pets") == (("crane", ""),) * 3  # two of a name may be meant


def test_a_list_of_the_source_s_own_names_may_have_any_order(write):
    content = ["crane", {"name": "boxer", "context": "a dog"}, "golden retriever"]
    expected = (ClassName("boxer", "a dog"), ClassName("golden retriever"), ClassName("crane"))
    assert open_classes(write(content), NAMES, "pets") == expected


@pytest.mark.parametrize(
    "content, message",
    [
        (["boxer"], "lists 1 classes, and pets has 3"),
        (["boxer"] * 4, "lists 4 classes, and pets has 3"),
        ({"boxer": "a", "crane": "b"}, "lacks class 'golden_retriever' of pets"),
        ({}, "lacks class 'boxer' and 2 more"),
        ({**dict.fromkeys(NAMES, "a"), "cranes": "b"}, "no class 'cranes'; did you mean 'crane'"),
        (["boxer", "dog", 3], "got 3"),
        (["boxer", "dog", {"name": None}], "got {'name': None}"),
        (["boxer", "dog", {"nam": "crane"}], "no 'nam'; did you mean 'name'"),
        (["boxer", "dog", " "], "empty name"),
        ("7", "must hold a list"),
        ('{"boxer": "a", "boxer": "b"}', "'boxer' occurs twice"),
        ("\udcff", "no proper JSON"),
    ],
)
def test_class_files_that_cannot_be(content, message, write, tmp_path):
    if content == "\udcff":
        path = str(tmp_path / "latin.json")
        (tmp_path / "latin.json").write_bytes(b'["\xff"]')
    else:
        path = write(content)
    with pytest.raises(ConfigError, match=message) as error:
        open_classes(path, NAMES, "pets")
    assert path in str(error.value) and "\n" not in str(error.value)


def test_a_missing_class_file():
    with pytest.raises(ConfigError, match=r"evals\.zero_shot\.classes: cannot read 'nowhere\.json': No such file"):
        open_classes("nowhere.json", NAMES, "pets")


def test_prompts_of_every_class():
    classes = [ClassName("boxer", "a dog"), ClassName("crane")]
    assert class_prompts(["{}", "a {}."], classes) == [["boxer, a dog", "a boxer, a dog."], ["crane", "a crane."]]
    with pytest.raises(ConfigError, match="'crane' has none"):
        class_prompts(["{} ({context})"], classes)

"""Names of classes, and sentences made from them, for zero-shot classification."""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from vision_jax import limits
from vision_jax.config import Section
from vision_jax.errors import ConfigError, did_you_mean
from vision_jax.files import printable, read_json
from vision_jax.weights.work_folder import outputs_of, read_run_config

TEMPLATES = {
    "plain": ("a photo of a {}.",),
    "photos": (
        "a picture that shows a {}.",
        "a snapshot of the {}.",
        "a phone picture of a {}.",
        "a studio picture of one {}.",
        "an outdoor picture of a {}.",
        "an indoor picture of the {}.",
        "a night-time picture of a {}.",
        "a sunlit {}.",
        "a grainy old picture of the {}.",
        "an out-of-focus picture of a {}.",
        "a picture, taken from far away, of a {}.",
        "a picture, cut off at the edge, of a {}.",
        "a side view of the {}.",
        "a view from above of a {}.",
    ),
    "digits": (
        "{}",
        "a handwritten {}.",
        "the handwritten digit {}.",
        "the number {} in somebody's handwriting.",
        "a {} drawn with a pen.",
        "a scan of a written {}.",
        "a tiny grey picture of the figure {}.",
        "one digit on paper: {}.",
    ),
}


class ClassName(NamedTuple):
    """A class's name, and a context that tells it from others with that name ("a type of dog"), or ""."""

    name: str
    context: str = ""


def fill(template: str, name: str, context: str = "") -> str:
    """The template with "{}" replaced by the name and "{context}" by the context.

    If the template has no place for the context, it comes last, as in CLIP's prompts: "a photo of a {}." makes
    "a photo of a boxer, a type of dog.", and "{}" makes "boxer, a type of dog".
    """
    if context and "{context}" not in template:
        stop = "." if template.endswith(".") else ""
        template = template.removesuffix(".") + ", {context}" + stop
    return re.sub(r"\{(context)?\}", lambda place: context if place[1] else name, template)


def open_templates(spec: str, where: str = "config.evals.zero_shot.templates") -> tuple[str, ...]:
    """The templates from a built-in set or a JSON file: a list, or {"templates": [...]}; where: config key for messages.

    Raises:
        ConfigError: there is no such set or file, or a template is invalid.
    """
    if spec in TEMPLATES:
        return TEMPLATES[spec]
    path = os.path.expanduser(spec)
    if not os.path.exists(path) and not spec.endswith(".json") and os.sep not in spec:
        raise ConfigError(f"{where}={spec!r} is neither a file nor a built-in set{did_you_mean(spec, TEMPLATES)}")
    content = _read_json(path, where)
    if isinstance(content, dict) and list(content) == ["templates"]:
        content = content["templates"]
    if not isinstance(content, list):
        raise ConfigError(f"'{path}' must hold a list of templates, or {{\"templates\": [...]}}")
    return check_templates(content, f"'{path}'")


def check_templates(templates: Sequence, where: str) -> tuple[str, ...]:
    """The templates; raises ConfigError naming `where` unless each has one "{}", and no other place but "{context}"."""
    if not templates:
        raise ConfigError(f"{where} holds no templates, where there must be at least one, such as 'a photo of a {{}}.'")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ConfigError(
                f"{where}: a template is text with one '{{}}' for the name of the class, got {_shown(template)}"
            )
        if len(template) > limits.CLASS_NAME_CHARACTERS:
            raise ConfigError(f"{where}: a template has at most {limits.CLASS_NAME_CHARACTERS:,} characters")
        unknown = set(re.findall(r"\{[^{}]*\}", template)) - {"{}", "{context}"}
        if unknown:
            raise ConfigError(
                f"{where}: {_shown(template)} has a place {_shown(min(unknown))}; known are '{{}}' and '{{context}}'"
            )
    return tuple(templates)


def open_classes(path: str, class_names: Sequence[str], source: str) -> tuple[ClassName, ...]:
    """The class names of a source, in its order.

    Args:
        path: JSON file with a list of entries in the order of the classes, or a mapping from each of `class_names` to
            its entry. A list of exactly these names may be in any order. An entry is a name, or {"name": ...,
            "context": ...}, either of which may be left out. Empty: the source's own names.
        class_names: the source's own names, whose underscores become spaces.
        source: the source's name in messages.

    Raises:
        ConfigError: the file is missing or invalid, or has too few or too many classes.
    """
    own = [ClassName(name.replace("_", " ").strip()) for name in class_names]
    if not path:
        entries = [{}] * len(own)
    else:
        path = os.path.expanduser(path)
        entries = _entries(path, _read_json(path, "config.evals.zero_shot.classes"), class_names, source)
    classes = [_class_name(path, *pair) for pair in zip(entries, own, strict=True)]
    by_name = {each.name: each for each in classes}
    if len(by_name) == len(own) and by_name.keys() == {each.name for each in own}:
        return tuple(by_name[each.name] for each in own)
    return tuple(classes)


def run_prompts(workdir: pathlib.Path) -> tuple[tuple[ClassName, ...], tuple[str, ...]]:
    """The classes of a contrastive run, () if it learned only from texts, and its evaluation templates.

    Raises ConfigError if its files of names or templates cannot be read.
    """
    config = read_run_config(workdir)
    entries = [entry for entry in config.evals.values() if isinstance(entry, Section) and entry.kind == "zero_shot"]
    classes, templates = next(((entry.classes, entry.templates) for entry in entries), ("", ""))
    names = outputs_of(workdir).names
    if isinstance(templates, str) and templates:
        templates = open_templates(templates)
    return open_classes(classes, names, f"the run in {workdir}") if names else (), tuple(
        templates or config.data.templates or ("{}",)
    )


def listed_classes(path: str, where: str) -> tuple[ClassName, ...]:
    """Classes from a JSON file alone: a list of names, or of {"name": ..., "context": ...}. Raises ConfigError."""
    entries = _read_json(os.path.expanduser(path), where)
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{where}: '{printable(path)}' must hold a list of class names")
    if len(entries) > limits.CLASSES:
        raise ConfigError(f"{where}: '{printable(path)}' names more than {limits.CLASSES:,} classes")
    return tuple(_class_name(path, entry, ClassName("")) for entry in entries)


def class_prompts(templates: Sequence[str], classes: Sequence[ClassName]) -> list[list[str]]:
    """Prompts [classes][templates]; raises ConfigError if a template needs a context that a class lacks, or if all
    prompts take more than `limits.PROMPT_BYTES`."""
    size = len(classes) * sum(50 + len(template) for template in templates)  # a text's overhead, and its characters
    size += len(templates) * sum(len(name) + len(context) for name, context in classes)
    if size > limits.PROMPT_BYTES:
        raise ConfigError(f"{len(classes):,} classes in {len(templates):,} templates are too many prompts")
    if any("{context}" in template for template in templates):
        for name, context in classes:
            if not context:
                raise ConfigError(f"the templates ask for a '{{context}}', and class {_shown(name)} has none")
    return [[fill(template, *each) for template in templates] for each in classes]


def _entries(path: str, content: Any, class_names: Sequence[str], source: str) -> list:
    if isinstance(content, list):
        if len(content) != len(class_names):
            raise ConfigError(f"'{path}' lists {len(content)} classes, and {source} has {len(class_names)}")
        return content
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' must hold a list of class names, or a mapping from the source's class names")
    known = set(class_names)
    if unknown := [name for name in content if name not in known]:
        raise ConfigError(
            f"'{path}': {source} has no class {_shown(unknown[0])}{did_you_mean(unknown[0][:200], class_names)}"
        )
    if missing := [name for name in class_names if name not in content]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"'{path}' lacks class {_shown(missing[0])}{more} of {source}")
    return [content[name] for name in class_names]


def _class_name(path: str, entry: Any, own: ClassName) -> ClassName:
    fields = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        raise ConfigError(f'\'{path}\': a class is a name or {{"name": ..., "context": ...}}, got {_shown(entry)}')
    if unknown := fields.keys() - {"name", "context"}:
        raise ConfigError(
            f"'{path}': a class has no {_shown(min(unknown))}{did_you_mean(min(unknown)[:200], ('name', 'context'))}"
        )
    if any(len(value) > limits.CLASS_NAME_CHARACTERS for value in fields.values()):
        raise ConfigError(f"'{path}': a class's name has at most {limits.CLASS_NAME_CHARACTERS:,} characters")
    name = own._replace(**fields)
    if not name.name.strip():
        raise ConfigError(f"'{path}': a class has an empty name" if path else "a class of the source has no name")
    return name


def _shown(value: Any) -> str:
    return printable(repr(value[:300] if isinstance(value, str | list) else value))


def _read_json(path: str, where: str) -> Any:
    shown = printable(path)
    try:
        return read_json(path, pairs=_without_repetitions)
    except OSError as error:
        raise ConfigError(f"{where}: cannot read '{shown}': {error.strerror}") from None
    except ValueError as error:  # invalid JSON or UTF-8, or a repeated name
        raise ConfigError(f"{where}: '{shown}' is no proper JSON file: {printable(error)}") from None


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict:
    fields: dict = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{name!r} occurs twice")
        fields[name] = value
    return fields

"""docs/guarantees.md names tests and keys that exist."""

import ast
import pathlib
import re

from vision_jax.config import base_config, leaves
from vision_jax.training import continuing

REPO = pathlib.Path(__file__).parents[1]
TEXT = (REPO / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_every_promise_names_tests_that_exist():
    held = [line for line in TEXT.splitlines() if line.startswith("|") and "::" in line]
    named = re.findall(r"`([\w/]+\.py)::(\w+)(?:\[\w+\])?`", TEXT)
    assert len(held) > 30 and len(named) >= len(held)
    assert "::" not in re.sub(r"`[\w/]+\.py::\w+(?:\[\w+\])?`", "", TEXT), "a test that is named in another form"
    assert [f"{file}::{name}" for file, name in named if name not in functions(REPO / file)] == []


def test_every_scenario_of_the_crash_matrix_holds_a_promise():
    scenarios = {path.stem for path in (REPO / "experiments" / "faults").glob("*.py") if "rows" in functions(path)}
    assert set(re.findall(r"is_as_promised\[(\w+)\]", TEXT)) == scenarios


def test_keys_that_may_change_are_those_of_the_code():
    table = TEXT.partition("| key | why |")[2].partition("\n\n")[0]
    assert dict(re.findall(r"\| `([\w.]+)` \| (.*) \|", table)) == continuing.MAY_CHANGE
    keys = [key for key, _ in leaves(base_config())]
    for known in continuing.MAY_CHANGE:
        assert known.startswith("model.") or any(f"{key}.".startswith(f"{known}.") for key in keys), known


def functions(path: pathlib.Path) -> set[str]:
    if not path.exists():
        return set()
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}

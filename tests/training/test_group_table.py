import fnmatch
import itertools
import re

import pytest

from vision_jax.training.group_table import format_groups
from vision_jax.training.param_groups import ParamGroup


def group(path, size=1, decays=True, lr_scale=1.0, frozen=False):
    return ParamGroup(path, size, decays, lr_scale, frozen, False)


def expanded(pattern):
    """The shell patterns of 'a_{0..2,5}/*'."""
    choices = []
    for text in re.split(r"(\{[^}]*\})", pattern):
        if text.startswith("{"):
            spans = [part.split("..") for part in text[1:-1].split(",")]
            choices.append([str(i) for span in spans for i in range(int(span[0]), int(span[-1]) + 1)])
        else:
            choices.append([text])
    return ["".join(parts) for parts in itertools.product(*choices)]


def rows_of(table):
    """(decay, lr scale, parameters, the shell patterns) of every row; a row's further lines hold paths only."""
    lines = table.splitlines()[1:-1]
    rows = []
    for line in lines:
        if line.startswith(" "):
            rows[-1][3] += line.split()
        else:
            decay, scale, size, *paths = line.split()
            rows.append([decay, scale, int(size.replace(",", "")), paths])
    return [(*row[:3], [shell for path in row[3] for shell in expanded(path.rstrip(","))]) for row in rows]


def many_groups():
    groups = []
    for stage, depth in enumerate((2, 12)):
        for block in range(depth):
            frozen = stage == 0 or block in (3, 5)
            for name in ("attn/query/kernel", "attn/query/bias", "mlp/fc1/kernel", "norm1/scale"):
                decays = name.endswith("kernel") and not frozen
                scale = 0.0 if frozen else 0.1 if "mlp" in name else 1.0
                groups.append(group(f"stages_{stage}/blocks_{block}/{name}", 7 + block, decays, scale, frozen))
    head = [group("head/kernel", 10, True, 10.0), group("head/bias", 3, False, 10.0)]
    return [*groups, *head, group("cls", 1234567, False)]


def test_patterns_stand_for_each_row_s_parameters_and_no_others():
    groups = many_groups()
    seen = 0
    for decay, scale, size, patterns in rows_of(format_groups(groups)):
        members = [g for g in groups if any(fnmatch.fnmatchcase(g.path, pattern) for pattern in patterns)]
        assert {"-" if g.frozen else "yes" if g.decays else "no" for g in members} == {decay}
        assert {"frozen" if g.frozen else f"{g.lr_scale:.4g}" for g in members} == {scale}
        assert sum(g.size for g in members) == size
        seen += len(members)
    assert seen == len(groups)


def test_readable():
    table = format_groups(many_groups())
    assert max(map(len, table.splitlines())) <= 100
    assert "stages_0/*" in table and "stages_1/blocks_{0..2,4,6..11}/mlp/fc1/kernel" in table
    starts = {re.search(r"\S+, |\S+$", line).start() for line in table.splitlines()[:-1] if not line.startswith(" ")}
    assert starts == {table.index("paths")}
    trained = sum(g.size for g in many_groups() if not g.frozen)
    assert table.splitlines()[-1].startswith(f"{trained:,} of ")


def test_plain_vit_merges_its_blocks():
    groups = [group(f"blocks_{i}/{name}/kernel") for i in range(12) for name in ("attn", "mlp")]
    groups += [group(f"blocks_{i}/norm/bias", decays=False) for i in range(12)]
    yes, no = format_groups(groups).splitlines()[1:-1]
    assert yes.endswith("  24  blocks_{0..11}/*/kernel") and yes.startswith("yes")
    assert no.endswith("  12  blocks_{0..11}/norm/bias") and no.startswith("no ")


@pytest.mark.parametrize(("scale", "shown"), [((0.25, 0.5, 1.0), "0.25..1"), (0.0237573, "0.02376")])
def test_scales(scale, shown):
    assert f" {shown} " in format_groups([group("blocks/kernel", lr_scale=scale)])

"""Parts of a self-contained page: no script, no other file, no network."""

import base64
import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --quiet: #5a6472; --line: #d8dde4; --soft: #f4f6f8; --blue: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; }
.quiet, figcaption { color: var(--quiet); font-size: .875rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1.2rem 0; }
.tile { background: var(--soft); border-radius: .4rem; padding: .5rem .8rem; overflow-wrap: anywhere; }
.tile b { display: block; font-size: 1.25rem; line-height: 1.3; }
.tile span { color: var(--quiet); font-size: .8rem; display: block; line-height: 1.3; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; }
.texts td:last-child { overflow-wrap: anywhere; }
code, pre { font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; }
td:first-child code { white-space: nowrap; }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; border-radius: .4rem; }
summary { cursor: pointer; color: var(--blue); margin-top: .8rem; }
figure { margin: 0; }
img { max-width: 100%; height: auto; display: block; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1rem; }
.curves img { width: 100%; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1rem; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem; }
.mistakes img { width: 100%; }
.confusion td, .confusion th { border: 1px solid #fff; padding: .2rem .4rem; text-align: center; min-width: 2rem; }
.confusion tbody th { text-align: right; position: sticky; left: 0; background: #fff; white-space: nowrap; }
.confusion .long th[scope=col] { writing-mode: vertical-rl; white-space: nowrap; text-align: right; }
.confusion td { background: var(--soft); }
.bar { background: var(--blue); height: .8rem; border-radius: .15rem; min-width: 1px; }
.bars { width: min(40rem, 100%); }
.bars td:last-child { width: 65%; vertical-align: middle; }
@media print { body { max-width: none; } figure, .tile { break-inside: avoid; } }
"""


class Markup(str):
    """Text that is already HTML."""


def element(name: str, /, *children: str, **attributes: str) -> Markup:
    """<name attributes>children</name>, with all text in it escaped except `Markup`. `class_` stands for class."""
    inside = "".join(child if isinstance(child, Markup) else html.escape(str(child)) for child in children)
    told = "".join(f' {key.strip("_")}="{html.escape(str(value))}"' for key, value in attributes.items())
    return Markup(f"<{name}{told}>" if name in ("img", "meta") else f"<{name}{told}>{inside}</{name}>")


def page(title: str, *parts: str) -> str:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', element('main', *parts)), lang='en')}\n"


def section(title: str, *parts: str) -> Markup:
    return element("section", element("h2", title), *(Markup(f"\n{part}") for part in parts if part))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True, **attributes: str) -> Markup:
    """Escapes cells that are not `Markup`; with `numbers`, aligns all but the first of a row to the right."""
    right = {"class_": "number"} if numbers else {}

    def row(name: str, cells: Sequence[str], **first: str) -> Markup:
        return element("tr", element(name, cells[0], **first), *(element(name, cell, **right) for cell in cells[1:]))

    body = element("tbody", *(row("td", cells) for cells in rows))
    return wide(element("table", element("thead", row("th", head)) if head else "", body, **attributes))


def wide(part: Markup) -> Markup:
    """Lets a part scroll by itself if it is wider than the screen."""
    return element("div", part, class_="wide")


def picture(content: bytes, kind: str, said: str, *caption: str) -> Markup:
    """A picture embedded in the page; kind: "png" or "svg+xml"; `said` is its alternative text."""
    data = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    told = element("figcaption", *caption) if caption else Markup()
    return element("figure", element("img", src=data, alt=said), told)

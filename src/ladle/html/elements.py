"""The page of a report: escaped by construction, and whole in one file.

Text becomes HTML only through :func:`element`, which escapes all that is not HTML already: names, labels and notes
come from data, and a model folder may come from a stranger. The page's own policy forbids scripts and the network.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ladle.html.style import CSS

_ALONE = {"img", "meta", "br", "circle", "ellipse", "line", "path", "rect", "use"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Markup(str):
    """Text that is HTML already."""


class Absent(Exception):
    """Why a panel stays empty, in words for its reader."""


class Panel(NamedTuple):
    """One section of a report.

    Attributes:
        title: its heading.
        words: what is seen and what would be bad, a paragraph each.
        body: what is drawn.
        numbers: what was measured, for ``--json``.
    """

    title: str
    words: tuple[str, ...]
    body: Markup
    numbers: dict[str, Any] = {}


def element(name: str, /, *inside: object, **attributes: object) -> Markup:
    """An element; what is inside is escaped unless it is :class:`Markup`.

    Args:
        name: of the element.
        inside: text and elements; ``None`` is left out.
        attributes: a trailing ``_`` is taken off, others become ``-``; ``None`` is left out.

    >>> element("p", "a < b", element("b", "c"), class_="x", aria_label='"')
    '<p class="x" aria-label="&quot;">a &lt; b<b>c</b></p>'
    """
    pairs = ((k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None)
    opening = name + "".join(f' {k}="{html.escape(str(v))}"' for k, v in pairs)
    return Markup(f"<{opening}/>" if name in _ALONE else f"<{opening}>{joined(inside)}</{name}>")


def joined(things: Iterable[object]) -> Markup:
    """Text and elements one after the other, the text escaped."""
    return Markup("".join(t if isinstance(t, Markup) else html.escape(str(t)) for t in things if t is not None))


def prose(text: str) -> Markup:
    """Text in which what stands between backticks is code.

    >>> prose("say `ladle < fit`")
    'say <code>ladle &lt; fit</code>'
    """
    return joined(element("code", part) if i % 2 else part for i, part in enumerate(text.split("`")))


def number(value: float, digits: int = 4) -> str:
    """A number for people, to so many significant digits.

    >>> number(1879.1328), number(0.01234), number(16761544), number(-0.0)
    ('1,879', '0.01234', '16,761,544', '0')
    """
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def page(title: str, head: Markup, panels: list[Panel]) -> str:
    """The whole file.

    Args:
        title: of the window.
        head: what stands above the panels.
        panels: in their order.
    """
    names = [re.sub("[^a-z]+", "-", panel.title.lower()).strip("-") for panel in panels]
    links = [element("a", panel.title, href=f"#{name}") for name, panel in zip(names, panels, strict=True)]
    sections = [
        element(
            "section",
            element("div", element("h2", panel.title), *(element("p", prose(w)) for w in panel.words), class_="words"),
            element("div", panel.body, class_="body"),
            id=name,
        )
        for name, panel in zip(names, panels, strict=True)
    ]
    meta = (
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
    )
    navigation = element("nav", *links, aria_label="Panels")
    body = element("body", head, navigation, element("main", *sections))
    whole = element("html", element("head", *meta, element("title", title), element("style", Markup(CSS))), body,
                    lang="en")  # fmt: skip
    return f"<!doctype html>\n{whole}\n"

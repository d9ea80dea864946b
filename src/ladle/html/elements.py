"""HTML pages in a single file, escaped by construction.

Text becomes HTML only through :func:`element`, which escapes everything that is not :class:`Markup`: names, labels and
notes come from data, and a model folder may come from an untrusted source. The content security policy of the page
forbids scripts and network access.
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
    """A string of HTML, which is not escaped again."""


class Absent(Exception):
    """A panel cannot be drawn. The message is shown in its place."""


class Panel(NamedTuple):
    """One section of a report.

    Attributes:
        title: the heading.
        words: paragraphs that explain the figure, and how to recognise good and bad results.
        body: the figure.
        numbers: the measured values, for ``--json``.
    """

    title: str
    words: tuple[str, ...]
    body: Markup
    numbers: dict[str, Any] = {}


def element(name: str, /, *inside: object, **attributes: object) -> Markup:
    """An HTML element. Its content is escaped unless it is :class:`Markup`.

    Args:
        name: the name of the element.
        inside: text and elements; ``None`` is left out.
        attributes: the attributes; a trailing ``_`` of a name is removed, other underscores become ``-``, and
            attributes that are ``None`` are left out.

    >>> element("p", "a < b", element("b", "c"), class_="x", aria_label='"')
    '<p class="x" aria-label="&quot;">a &lt; b<b>c</b></p>'
    """
    pairs = ((k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None)
    opening = name + "".join(f' {k}="{html.escape(str(v))}"' for k, v in pairs)
    return Markup(f"<{opening}/>" if name in _ALONE else f"<{opening}>{joined(inside)}</{name}>")


def joined(things: Iterable[object]) -> Markup:
    """Concatenate text, which is escaped, and elements."""
    return Markup("".join(t if isinstance(t, Markup) else html.escape(str(t)) for t in things if t is not None))


def prose(text: str) -> Markup:
    """Text as HTML; what is between backticks becomes code.

    >>> prose("say `ladle < fit`")
    'say <code>ladle &lt; fit</code>'
    """
    return joined(element("code", part) if i % 2 else part for i, part in enumerate(text.split("`")))


def number(value: float, digits: int = 4) -> str:
    """Format a number with ``digits`` significant digits, and large ones without decimals.

    >>> number(1879.1328), number(0.01234), number(16761544), number(-0.0)
    ('1,879', '0.01234', '16,761,544', '0')
    """
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def page(title: str, head: Markup, panels: list[Panel]) -> str:
    """The HTML of a page.

    Args:
        title: the title of the window.
        head: the content above the panels.
        panels: the panels, in order.
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
    document = element("html", element("head", *meta, element("title", title), element("style", Markup(CSS))), body,
                    lang="en")  # fmt: skip
    return f"<!doctype html>\n{document}\n"

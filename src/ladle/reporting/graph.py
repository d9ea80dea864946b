"""The panels of the architecture: a table of the parts of a model, and its directed graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import singledispatch
from itertools import groupby, pairwise
from typing import Any

from torch import nn

from ladle.html.elements import Markup, Panel, element, joined
from ladle.model.conditional import Amortised
from ladle.model.latents.ladder import Ladder, Top
from ladle.model.priors import Prior
from ladle.model.vae import VAE
from ladle.reporting.subject import Subject
from ladle.shapes import Size, numel
from ladle.spec import to_spec

WIDTH, LEFT, STEP, RADIUS = 340, 122, 104, 23
CIRCLES = 4  # the largest number of levels with a circle each; of more levels, those of equal size share one

Row = tuple[str, str, str, int]


def name_of(part: nn.Module) -> str:
    """The name of a part, and that of the family inside it.

    >>> from ladle.spec import build
    >>> name_of(build({"part": "family/affine", "family": {"part": "family/normal"}, "loc": 0.0, "scale": 1.0}))
    'normal'
    >>> name_of(build({"part": "family/mixture", "family": {"part": "family/laplace"}}))
    'mixture of laplace'
    """
    return _named(to_spec(part))


def _named(spec: Mapping[str, Any]) -> str:
    kind, _, name = str(spec["part"]).partition("/")
    name = name.replace("_", " ")
    if kind != "family" or "family" not in spec:
        return name
    inside = _named(spec["family"])
    return inside if name == "affine" else f"{name} of {inside}"


def parts_of(vae: VAE) -> Iterator[Row]:
    """The parts with weights: the density, a description, the shapes, the number of parameters."""
    for path, module in vae.named_modules():
        yield from rows_of(module, role(path))


@singledispatch
def rows_of(module: nn.Module, density: str) -> Iterator[Row]:
    """The rows of a module in the table of parts. A kind of part with rows of its own registers a function by type;
    other modules have none."""
    return iter(())


@rows_of.register
def _(module: Amortised, density: str) -> Iterator[Row]:
    net, family = module.net, module.family
    yield density, f"net: {name_of(net)}{_details(net)}", f"{_by(net.inputs)} → {_by(net.features)}", _count(net)
    raw = sum(numel(size) for size in module.sizes)
    kind = "pointwise convolution" if module.is_map else "linear"
    yield "", f"head: {kind} to {name_of(family)}", f"{_by(net.features)} → {raw}", _count(module.head)


@rows_of.register
def _(module: Prior, density: str) -> Iterator[Row]:
    yield density, f"prior: {name_of(module)}{_details(module)}", _by(module.event), _count(module)


@rows_of.register
def _(module: Top, density: str) -> Iterator[Row]:
    shapes = f"{_by(module.inputs)} → {_by(module.event)}"
    yield density, f"pyramid of features, and a head to {name_of(module.family)}", shapes, _count(module)


@rows_of.register
def _(module: Ladder, density: str) -> Iterator[Row]:
    for event, levels in groupby(module.below, lambda level: _by(level.rung)):  # type: ignore[arg-type]
        counts = [_count(level) for level in levels]
        many = f"{len(counts)} levels" if len(counts) > 1 else "1 level"
        yield "p(z | above), q(z | above, x)", f"top-down: {many}", event, sum(counts)


def role(path: str) -> str:
    """The density that a part of the model parameterises, or its path."""
    return {"latents.posterior": "q(z|x)", "latents.prior": "p(z)", "likelihood": "p(x|z)"}.get(path, path)


def _by(size: Size) -> str:
    return " × ".join(map(str, size))


def _details(part: nn.Module) -> str:
    sizes = [f"{k} {v}" for k, v in to_spec(part).items() if type(v) is int]
    return f" ({', '.join(sizes)})" if sizes else ""


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def architecture(subject: Subject) -> Panel:
    """The table of nets, heads and priors, with their shapes and numbers of parameters."""
    vae = subject.model.vae
    total = _count(vae)
    left = (element("th", name) for name in ("density", "part", "from → to"))
    head = element("tr", *left, element("th", "parameters", class_="right"))
    rows = [
        element("tr", element("td", where), element("td", what), element("td", shapes),
                element("td", f"{count:,}", class_="right"))
        for where, what, shapes, count in parts_of(vae)
    ]  # fmt: skip
    last = element(
        "tr", element("td", "total"), element("td"), element("td"), element("td", f"{total:,}", class_="right")
    )
    words = (
        "The encoder net maps x to the parameters of q(z|x), the decoder net maps z to those of p(x|z). The model has "
        f"{total:,} parameters in total.",
    )
    table = element("div", element("table", head, *rows, last), class_="wide", tabindex="0", role="region",
                    aria_label="Table of parts")  # fmt: skip
    return Panel("Architecture", words, table, {"parameters": total})


def graph(subject: Subject) -> Panel:
    """The directed graph of the model, with its densities."""
    vae = subject.model.vae
    prior = getattr(vae.latents, "prior", None)
    posterior = getattr(vae.latents, "posterior", None)
    likelihood = name_of(vae.likelihood.family)
    q = name_of(posterior.family) if posterior is not None else "at each level"
    words: tuple[str, ...]
    if subject.plain:
        words = (
            "Solid arrows decode, the dashed arrow encodes. The code z of an item is a single point, and the model "
            "does not define a distribution of codes: there is no p(z), and therefore no p(x).",
        )
        p = "no prior"
    else:
        words = (
            "Solid arrows generate: z is drawn from its prior, x from p(x|z). Dashed arrows infer: q(z|x) approximates "
            "the posterior p(z|x), which cannot be computed.",
            "p(x), dotted, is intractable: it is the integral of p(x|z) p(z) over all z, through the decoder net. This "
            "is why the report gives bounds. h is the input of the decoder net, a function of z.",
        )
        p = name_of(prior) if prior is not None else "a chain of levels"
    names, sizes = zip(*nodes(vae.latents.events), strict=True)
    sizes = ("",) * len(sizes) if subject.plain else sizes
    return Panel("The model as a graph", words, drawing(list(names), list(sizes), p, q, likelihood, subject.plain))


def nodes(events: tuple[Size, ...]) -> list[tuple[str, str]]:
    """The name and the size of every circle of latents, from the top. If there are many levels, those of equal size
    share one.

    >>> nodes(((5,),)), nodes(((5,), (4, 2, 2)))
    ([('z', '5')], [('z₂', '5'), ('z₁', '4 × 2 × 2')])
    >>> nodes(((5,), *[(4, 2, 2)] * 3, *[(4, 7, 7)] * 3))
    [('z₇', '5'), ('z₆₋₄', '3 levels of 4 × 2 × 2'), ('z₃₋₁', '3 levels of 4 × 7 × 7')]
    """
    if len(events) == 1:
        return [("z", _by(events[0]))]
    runs = groupby(events) if len(events) > CIRCLES else ((event, [event]) for event in events)
    number, found = len(events), []
    for event, run in runs:
        last = number - len(list(run)) + 1
        name = f"z{_below(number)}" + (f"₋{_below(last)}" if number > last else "")
        found.append((name, (f"{number - last + 1} levels of " if number > last else "") + _by(event)))
        number = last - 1
    return found


def _below(i: int) -> str:
    return "".join(chr(0x2080 + int(digit)) for digit in str(i))


def drawing(names: list[str], sizes: list[str], prior: str, posterior: str, likelihood: str, plain: bool) -> Markup:
    """The graph as SVG: the levels from the top, then h, x and p(x). :data:`ladle.html.style.CSS` gives the colours.

    Args:
        names: the names of the levels, from the top.
        sizes: the size of each level.
        prior: the family of p(z).
        posterior: the family of q(z|x).
        likelihood: the family of p(x|z).
        plain: whether the model is a plain autoencoder, without p(z).
    """
    top = 40
    z = [top + STEP * i for i in range(len(names))]
    h = z[-1] + STEP
    x = h + STEP
    height = x + (40 if plain else 108)
    ys = [*z, h, x]
    inside: list[Markup] = []
    for upper, lower in pairwise(ys):
        inside.append(_edge(LEFT, upper + RADIUS, lower - RADIUS))
    for i, at in enumerate(z):  # from x on the left, outwards with each level
        bend = LEFT - 52 - 10 * (len(z) - 1 - i)
        inside.append(element("path", d=f"M{LEFT - 20} {x - 12}C{bend} {x - 60} {bend} {at + 60} {LEFT - 21} {at + 13}",
                              class_="infer"))  # fmt: skip
        inside.append(element("path", d=f"M{LEFT - 18} {at + 9}l-11 3l7 8z", class_="infer-tip"))
    for at, name in zip(z, names, strict=True):
        inside.append(element("circle", cx=LEFT, cy=at, r=RADIUS, class_="node"))
        inside.append(_text(name, LEFT, at + 5, "name"))
    inside.append(
        element("rect", x=LEFT - RADIUS, y=h - RADIUS, width=2 * RADIUS, height=2 * RADIUS, rx=7, class_="node")
    )
    inside.append(_text("h", LEFT, h + 5, "name"))
    inside.append(element("circle", cx=LEFT, cy=x, r=RADIUS, class_="seen"))
    inside.append(_text("x", LEFT, x + 5, "name"))
    right = LEFT + RADIUS + 14
    inside += [_text("no p(z)" if plain else "p(z)", right, z[0] - 4, None), _text(prior, right, z[0] + 14, "faint")]
    for at, size in zip(z[1:], sizes[1:], strict=True):
        inside += [_text("p(z | levels above)", right, at - 4, None), _text(size, right, at + 14, "faint")]
    middle = (z[-1] + x) / 2
    inside += [_text("q(z|x)", 0, middle - 4, None), _text(posterior, 0, middle + 14, "faint")]
    inside += [_text("h", right, h - 4, None), _text("the input of the decoder net", right, h + 14, "faint")]
    inside += [_text("p(x|z)", right, x - 4, None), _text(likelihood, right, x + 14, "faint")]
    if not plain:
        px = x + 72
        inside.append(element("path", d=f"M{LEFT} {x + RADIUS + 4}V{px - 21}", class_="dotted"))
        inside.append(element("ellipse", cx=LEFT, cy=px, rx=36, ry=19, class_="dotted"))
        inside.append(_text("p(x)", LEFT, px + 5, "name"))
        inside.append(_text("intractable: bounded", LEFT + 50, px + 4, "faint"))
    alt = (f"Graph: {' to '.join(names)} to h to x, generative; x to {' and '.join(names)}, inference. p(z): {prior}; "
           f"q(z|x): {posterior}; p(x|z): {likelihood}; {'no p(x)' if plain else 'p(x) is intractable'}")  # fmt: skip
    return element("svg", joined(inside), viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=alt, class_="graph")


def _edge(at: float, start: float, end: float) -> Markup:
    """A downward arrow."""
    tip = element("path", d=f"M{at} {end}l-5 -10h10z", class_="tip")
    return joined([element("path", d=f"M{at} {start}V{end - 9}", class_="edge"), tip])


def _text(text: str, x: float, y: float, look: str | None) -> Markup:
    return element("text", text, x=f"{x:g}", y=f"{y:g}", class_=look)

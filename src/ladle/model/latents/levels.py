"""Parser for the short string that describes the levels of a ladder, from the top down.

::

    1x2:16, 4x2, 7x3      two levels of 16 latents at side 1, two at side 4 and three at side 7

    blocks = rung {"," rung}        rung = SIDE ["x" COUNT] [":" SIZE]

``SIDE`` is the longer side of the image after repeated halving, rounded up: 28 x 28 has the sides 28, 14, 7, 4, 2 and
1. ``COUNT`` is the number of levels at this side (default: 1), and ``SIZE`` the number of latents that each has per
pixel (default: the ``size`` of the ladder). A table is one pixel: its only side is 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from ladle.shapes import Size
from ladle.spec import SpecError

MOST = 100  # levels; the deepest VDVAE has 78
_RUNG = re.compile(r"\s*(\d{1,6})(?:x(\d{1,6}))?(?::(\d{1,6}))?\s*")


class Rung(NamedTuple):
    """One level: ``size`` latents at every pixel of a map of ``height`` by ``width``."""

    size: int
    height: int
    width: int

    @property
    def side(self) -> int:
        """The longer side of the map."""
        return max(self.height, self.width)


def maps(inputs: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width of an item at full size and after each halving, down to one pixel.

    >>> maps((3, 9, 17)), maps((4,))
    ([(9, 17), (5, 9), (3, 5), (2, 3), (1, 2), (1, 1)], [(1, 1)])
    """
    height, width = inputs[1:] if len(inputs) == 3 else (1, 1)
    found = [(height, width)]
    while max(found[-1]) > 1:
        height, width = found[-1]
        found.append((-(-height // 2), -(-width // 2)))
    return found


def parse(text: str, inputs: Size, size: int) -> list[Rung]:
    """Parse a string into levels, the top first.

    Args:
        text: the string, see the docstring of this module.
        inputs: the shape of an item: ``(C, H, W)`` of an image, ``(D,)`` of a table.
        size: the number of latents per pixel for levels without ``SIZE``.

    Raises:
        SpecError: if the string is not valid; the message shows the position and what would fit.

    >>> parse("1:8, 2x2", (1, 4, 3), size=2)
    [Rung(size=8, height=1, width=1), Rung(size=2, height=2, width=2), Rung(size=2, height=2, width=2)]
    """
    known = {max(m): m for m in maps(inputs)}
    found: list[Rung] = []
    at = 0
    while True:
        match = _RUNG.match(text, at)
        if match is None:
            _refuse(text, at, "a level must be SIDE, SIDExCOUNT or SIDExCOUNT:SIZE, such as 4x2:8")
        side, count, each = (int(v) if v else d for v, d in zip(match.groups(), (0, 1, size), strict=True))
        if side not in known:
            sides = ", ".join(map(str, known))
            near = min(known, key=lambda k: abs(k - side))
            _refuse(text, match.start(1), f"a side must be one of {sides}, got {side}; {near} would fit")
        if found and side < found[-1].side:
            _refuse(text, match.start(1), f"sides must not decrease, but {side} is below {found[-1].side}")
        if count < 1 or each < 1:
            _refuse(text, match.start(2 if count < 1 else 3), "there must be at least 1 level, and 1 latent in each")
        if len(found) + count > MOST:
            _refuse(text, match.start(1), f"a ladder must have at most {MOST} levels, got more")
        found += [Rung(each, *known[side])] * count
        at = match.end()
        if at == len(text):
            break
        if text[at] != ",":
            _refuse(text, at, "after a level there must be a comma or the end")
        at += 1
    if len(found) < 2:
        _refuse(text, 0, f"a ladder needs at least 2 levels, got 1; {text.strip()},{text.strip()} would fit, or 'flat'")
    return found


def _refuse(text: str, at: int, why: str) -> NoReturn:
    at += len(text[at:]) - len(text[at:].lstrip())
    shown, at = (text, at) if len(text) <= 100 else (text[max(0, at - 40) : at + 40], min(at, 40))
    raise SpecError(f"blocks: {why}\n    {shown}\n    {' ' * at}^")

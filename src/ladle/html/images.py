"""Images, drawn on sheets with transparent gaps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from PIL import Image

from ladle.data import Schema, grey_levels
from ladle.data import sheet as white_sheet
from ladle.html.elements import Markup, element, joined
from ladle.html.items import Drawing, Group, Originals, Traversal, View, captioned, draws

VISIBLE = 56  # pixels: the side up to which small images are enlarged
LARGEST = 112  # pixels of an image's longer side
GAP = 4  # pixels between the images of a page
FILE_GAP = 2  # pixels between an image and its reconstruction in a picture file
LOSSLESS = 200_000  # bytes up to which a picture is lossless
IN_A_ROW = 8
COMPARED = 16  # images of each set in a comparison


@draws("image")
class Images(View):
    """Images ``(C, H, W)`` with one or three channels."""

    suffix: ClassVar[str] = "png"
    most_pairs: ClassVar[int | None] = 24
    files_drawn: ClassVar[int] = 32

    def reconstructions(self, data: Originals, decoded: np.ndarray, latents: int) -> Drawing:
        """Rows of images above rows of their reconstructions."""
        originals, reconstructed = look(data.held, self.schema, binarised=False), look(decoded, self.schema)
        rows = []
        for start in range(0, len(originals), IN_A_ROW):
            rows += [originals[start : start + IN_A_ROW], reconstructed[start : start + IN_A_ROW]]
        if len(rows[-1]) < IN_A_ROW and len(rows) > 2:  # complete rows only
            rows = rows[:-2]
        alt = f"{len(originals)} pairs of an image and its reconstruction"
        words = (
            f"Top of each pair of rows: held-out images. Bottom: their reconstructions from {latents} latents.",
            "Details that the latents do not encode are lost. A pair that shows two different things is a bad sign.",
        )
        return Drawing(sheet(np.concatenate(rows), IN_A_ROW, alt, together=2), words)

    def samples(self, data: Originals | None, new: np.ndarray) -> Drawing:
        """A sheet of new images."""
        words = (
            "New images: z is drawn from the prior p(z), and the expectation of p(x|z) is shown. The samples are not "
            "selected.",
            "Good samples are as varied as the data and could belong to it. Bad signs: blurred mixtures of several "
            "things, or many samples that look alike.",
        )
        return Drawing(sheet(look(new, self.schema), IN_A_ROW, f"{len(new)} images drawn from the model"), words)

    def interpolations(self, lines: np.ndarray) -> Drawing:
        """One row for each line."""
        count, steps = lines.shape[:2]
        levels = look(lines.reshape(-1, *self.schema.shape), self.schema)
        words = (
            "Each row decodes points on the straight line from the latents of one item to those of another.",
            "Good: every step looks like an item. Bad: two items superimposed, as when their pixels are averaged.",
        )
        return Drawing(sheet(levels, steps, f"{count} rows, each from one item to another"), words)

    def traversals(self, start: np.ndarray, moved: Sequence[Traversal], ends: tuple[str, str]) -> Drawing:
        """One row for each latent."""
        levels = look(np.concatenate([latent.x for latent in moved]), self.schema)
        steps = len(moved[0].x)
        rows = [
            captioned(latent.name, latent.word,
                      sheet(levels[i * steps : (i + 1) * steps], steps, f"{latent.name} from low to high"))
            for i, latent in enumerate(moved)
        ]  # fmt: skip
        scale = element("div", element("span", ends[0]), element("span", "quantile of the prior"),
                        element("span", ends[1]), class_="ends-of-rows")  # fmt: skip
        words = (
            "A good latent changes one property. A row that hardly changes is a latent that carries little "
            "information, or whose effect depends on the other latents.",
        )
        return Drawing(element("div", *rows, scale, class_="rows"), words)

    def groups(self, groups: Sequence[Group]) -> Markup:
        """A sheet for each set: images of the data, or expectations of p(x|z)."""
        figures = []
        for group in groups:
            levels = look(group.shown[:COMPARED], self.schema, binarised=not group.data)
            word = "" if group.data else ", the expectation of p(x|z)"
            caption = element("figcaption", element("b", group.name), word)
            drawing = sheet(levels, IN_A_ROW, f"{len(levels)} images: {group.name}")
            figures.append(element("figure", caption, drawing))
        return element("div", joined(figures), class_="stack")

    def sheets(self, held: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """Images and their reconstructions, for a picture file."""
        # The images have the grey values of the data. If the model binarises them, it reconstructs probabilities.
        scale = 255 if self.schema.binarize else 1
        levels = grey_levels(np.concatenate([held, decoded * scale]), self.schema.unbinarised())
        return white_sheet(stacked(*np.split(levels, 2)), IN_A_ROW)

    def sheet_of_samples(self, new: np.ndarray) -> np.ndarray:
        """New images, for a picture file."""
        return white_sheet(enlarged(grey_levels(new, self.schema)))


def look(x: np.ndarray, schema: Schema, binarised: bool = True) -> np.ndarray:
    """Images ``(N, C, H, W)`` in the units of the data as grey levels ``(N, h, w, C)``, of a size suited to a page.

    Args:
        x: the images.
        schema: their schema.
        binarised: whether ``x`` holds the values in 0..1 that the model explains, and not the grey values of the data.
    """
    if schema.binarize and not binarised:
        schema = schema.unbinarised()
    levels = grey_levels(x, schema)
    longest = max(levels.shape[1:3])
    if longest <= LARGEST:
        return enlarged(levels)
    size = [max(1, round(side * LARGEST / longest)) for side in levels.shape[2:0:-1]]
    small = [np.asarray(Image.fromarray(one.squeeze()).resize(size, Image.Resampling.LANCZOS)) for one in levels]
    return np.stack(small).reshape(len(small), size[1], size[0], -1)


def sheet(levels: np.ndarray, columns: int, alt: str, together: int = 1) -> Markup:
    """Images ``(N, H, W, C)`` row by row in one picture.

    Args:
        levels: the images.
        columns: the number of images in a row.
        alt: a description of the picture, for screen readers.
        together: the number of rows that form a group: the gap after each group is wider.
    """
    n, height, width, channels = levels.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    tops = [r * (height + GAP) + (r // together) * 2 * GAP * (together > 1) for r in range(rows)]
    canvas = np.zeros((tops[-1] + height, columns * (width + GAP) - GAP, channels + 1), np.uint8)
    for i in range(n):
        top, left = tops[i // columns], (i % columns) * (width + GAP)
        canvas[top : top + height, left : left + width, :channels] = levels[i]
        canvas[top : top + height, left : left + width, channels] = 255
    return picture(Image.fromarray(canvas), alt, max(height, width) <= LARGEST // 2 + 8)


def picture(image: Image.Image, alt: str, small: bool) -> Markup:
    """A picture inside the page, lossless unless it is large. Small images are scaled without smoothing."""
    coded = io.BytesIO()
    image.convert("RGBA").save(coded, "WEBP", lossless=True, method=3)
    if coded.tell() > LOSSLESS:
        coded = io.BytesIO()
        image.convert("RGBA").save(coded, "WEBP", quality=88, method=3)
    source = "data:image/webp;base64," + base64.b64encode(coded.getvalue()).decode()
    return element(
        "img",
        src=source,
        alt=alt,
        width=image.width,
        height=image.height,
        class_="pixels" if small else None,
        style=f"max-width:{round(1.5 * image.width)}px",
    )


def enlarged(levels: np.ndarray) -> np.ndarray:
    """Repeat the pixels of small images until they are large enough to see: ``(N, H, W, C)`` to ``(N, kH, kW, C)``."""
    zoom = max(1, round(VISIBLE / max(levels.shape[1:3])))
    return levels.repeat(zoom, 1).repeat(zoom, 2)


def stacked(x: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Each image with its reconstruction below it as one image ``(N, 2kH + gaps, kW, C)``."""
    x, decoded = enlarged(x), enlarged(decoded)
    gap = np.full_like(x[:, :1], 255)
    return np.concatenate([x, gap.repeat(FILE_GAP, 1), decoded, gap.repeat(3 * FILE_GAP, 1)], axis=1)

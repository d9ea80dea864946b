"""Compress data with a model, and decompress it elsewhere: the same bits on every machine, or an error that says why."""

from __future__ import annotations

import io
import lzma
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from ladle import __version__
from ladle.coding.codec import BitsBack
from ladle.coding.container import CODED, LARGEST_CHUNK, STORED, XZ, Chunk, Damaged, FormatError, Reader, Writer, digest
from ladle.coding.convert import exact as rewritten
from ladle.coding.exact import Exact
from ladle.coding.pieces import ArrayPieces, FolderPieces, Pieces, inflated, packed, restored, unpacked
from ladle.coding.stack import Desynchronised
from ladle.coding.store import NAME, NumericsError, fingerprint, load_exact, probe, save_exact
from ladle.data import DataError, Dataset, Split, atomic_file, is_name, read
from ladle.folder import Model, load
from ladle.tasks.run import Source, explained, items

PAYLOAD = 1 << 17  # bytes of a chunk, about
RAW = 1 << 25  # bytes of pixels of a chunk, at most
LOOK = 256  # items that a model is rewritten by


class Compressed(NamedTuple):
    """What was written.

    Attributes:
        items: of the model: images, or tiles of them.
        raw: bytes of the user's pixels.
        bytes: of the file.
        bits_per_dim: of the file, for each of the user's numbers.
        chunks: how many.
        fallback: how many of them the model did not make smaller than xz.
    """

    items: int
    raw: int
    bytes: int
    bits_per_dim: float
    chunks: int
    fallback: int


def exact_model(folder: str | Path, data: Source | None = None, device: str = "cpu") -> Exact:
    """The model of a folder in whole numbers: made from ``data`` the first time, and kept in the folder.

    Raises:
        ModelError: when there is none yet, and no data to make it by.
        NotCodable, InexactError: for a part that cannot be coded with; it is named.
        NumericsError: when this machine computes something else than the one that made it.
    """
    folder = Path(folder)
    path = folder / NAME
    if not path.exists() and data is not None:
        model = load(folder, "cpu")
        given = (
            data
            if isinstance(data, np.ndarray)
            else explained(model, items(model, data, None).take(_spread(len(items(model, data, None)))))
        )
        made = rewritten(model.vae, torch.from_numpy(np.asarray(given[:LOOK], np.float32)))
        made.probe = probe(made)
        save_exact(made, path)
    return load_exact(path, device)

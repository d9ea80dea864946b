"""What every task shares: the data as the model wants it, and batches with progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ladle.data import Batch, DataError, Dataset, Split, as_held, batches, is_name, read
from ladle.store.folder import Model

Source = str | Path | np.ndarray | Split | Dataset
Progress = Callable[[int, int], None]
Telling = Callable[[str], Progress]  # given the name of a piece of work
Piece = TypeVar("Piece")
Found = TypeVar("Found")
BATCH = 256  # items at a time, at most
NUMBERS = 256 * 784  # of data at a time, about: of larger items fewer are taken, so that memory stays bounded
WORKERS = 8  # pieces of work at a time, at most


def silent(what: str) -> Progress:
    """No progress of any piece of work."""
    return lambda done, total: None


def items(model: Model, data: Source, split: str | None = None) -> Split:
    """Data as the model wants it.

    Args:
        model: the model.
        data: a name, a file, a folder, an array, a data set or one of its splits. Of a name the test split is
            taken, of a file everything, unless ``split`` says otherwise. To a model that binarises, a split that
            holds nothing but 0 and 1 is binary already.
        split: train, valid, test or all.

    Raises:
        DataError: when the data is not what the model was fitted to.
    """
    schema = model.schema
    if isinstance(data, Split):
        given = data
        support = "binary" if all(x.max(initial=0) <= 1 for x, _ in data.blocks()) else ""
    else:
        dataset = data if isinstance(data, Dataset) else read(data, like=schema)
        given = dataset.split(split or dataset.default)
        support = "bytes" if dataset.schema.binarize else dataset.schema.support
    if given.shape[1:] != schema.shape:
        raise DataError(f"items must be as the model's, {schema.describe()}; got items of shape {given.shape[1:]}")
    if not len(given):
        raise DataError("there is no item in the data")
    return as_held(given, support, schema)


def fitted_to(model: Model) -> str | None:
    """The name of the data set that a model was fitted to; of a file or folder none is kept."""
    about = model.config.get("data")
    source = about.get("source") if isinstance(about, dict) and about.get("named") else None
    return source if isinstance(source, str) and is_name(source) else None


def at_once(model: Model) -> int:
    """How many items to take at a time: 256, and fewer of large ones."""
    return max(1, min(BATCH, NUMBERS // model.schema.size))


def explained(model: Model, split: Split) -> np.ndarray:
    """All items as the likelihood explains them, binarised where the schema says so: ``(N, *event)``."""
    return np.concatenate([batch.x.numpy() for batch in batches(split, model.schema, at_once(model))])


def each_batch(
    model: Model,
    split: Split,
    size: int | None = None,
    progress: Progress | None = None,
    turn: np.ndarray | None = None,
) -> Iterator[Batch]:
    """The items in order, or as it is their turn, on the model's device."""
    done = 0
    for batch in batches(split, model.schema, at_once(model) if size is None else size, turn=turn):
        yield batch.to(model.device)
        done += len(batch.x)
        if progress:
            progress(done, len(split) if turn is None else len(turn))


def side_by_side(work: Callable[[Piece], Found], pieces: Iterable[Piece], device: str) -> Iterator[Found]:
    """What is found of each piece, such as a batch, in order. On a processor every core takes a piece of its own: that
    is faster than all of them at one, where matrices are small and much is done beside them.

    Args:
        work: done in threads, which share the model.
        pieces: taken as they are needed.
        device: where the work is done.
    """
    threads = torch.get_num_threads()
    workers = 1 if device != "cpu" else min(threads, WORKERS)
    if workers == 1:
        yield from map(work, pieces)
        return

    def alone(piece: Piece) -> Found:
        torch.set_num_threads(threads // workers)  # of this thread
        return work(piece)

    waiting: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(alone, piece))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

"""What all tasks share: the data in the model's form, and the loop over batches.

A task is one function ``(model, batch) -> rows``, such as :func:`ladle.tasks.encode.encode_batch`. :func:`map_batches`
applies it to the batches of a split or of a stream and yields the rows as they are computed. They are then collected
in one array by :func:`gather`, or written to a file as they arrive by :func:`ladle.write`; the memory of the latter
does not grow with the number of items::

    embed = partial(encode_batch, levels=1)
    z = gather(map_batches(embed, model, split), len(split))        # (N, D)
    ladle.write(map_batches(embed, model, split), "z.parquet")      # the same rows
    for rows in map_batches(embed, model, map(keyed_by_content, batches)):  # any iterable of batches
        ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ladle.data import Batch, DataError, Dataset, Split, as_held, batches, is_name, read
from ladle.seeds import key
from ladle.spec import nearest
from ladle.store.folder import Model

Source = str | Path | np.ndarray | Split | Dataset
Progress = Callable[[int, int], None]
Telling = Callable[[str], Progress]  # from the name of a piece of work to its progress
Given = TypeVar("Given", Batch, np.ndarray)
Piece = TypeVar("Piece")
Found = TypeVar("Found")
BATCH = 256  # the most items in a batch
NUMBERS = 256 * 784  # about the most values in a batch: batches of larger items are smaller, which bounds memory
WORKERS = 8  # the most batches that are computed at the same time


def silent(what: str) -> Progress:
    """A progress function that shows nothing."""
    return lambda done, total: None


def items(model: Model, data: Source, split: str | None = None) -> Split:
    """The items of ``data`` in the form in which the model was fitted to them.

    Args:
        model: the model.
        data: a name, a file, a folder, an array, a data set or one of its splits. If the model binarises its data, a
            split that holds only 0 and 1 is taken to be binary already.
        split: train, valid, test or all. By default the test split of a named data set, and all items of a file.

    Raises:
        DataError: if the items are not of the shape or type that the model was fitted to, or there are none.
    """
    schema = model.schema
    if isinstance(data, Split):
        found = data
        support = "binary" if all(x.max(initial=0) <= 1 for x, _ in data.blocks()) else ""
    else:
        dataset = data if isinstance(data, Dataset) else read(data, like=schema)
        found = dataset.split(split or dataset.default)
        support = "bytes" if dataset.schema.binarize else dataset.schema.support
    if found.shape[1:] != schema.shape:
        raise DataError(f"items must be as the model's, {schema.describe()}; got items of shape {found.shape[1:]}")
    if not len(found):
        raise DataError("there is no item in the data")
    return as_held(found, support, schema)


def fitted_to(model: Model) -> str | None:
    """The name of the data set that a model was fitted to, or ``None`` if it was fitted to a file or a folder."""
    about = model.config.get("data")
    source = about.get("source") if isinstance(about, dict) and about.get("named") else None
    return source if isinstance(source, str) and is_name(source) else None


def label_number(model: Model, label: str) -> int:
    """The number of a class, by its name.

    Raises:
        DataError: for a name that the model has never seen, and for any name if the model reads no labels.
    """
    if "label" not in model.vae.context:
        raise DataError(
            f"the model reads no labels, so it cannot be given '{label}'; a model with the prior prior/conditional can"
        )
    names = model.schema.label_names
    if label not in names:
        raise DataError(f"unknown label '{label}'{nearest(label, names)}; known: {', '.join(names)}")
    return names.index(label)


def at_once(model: Model) -> int:
    """The default number of items in a batch: 256, and fewer if the items are large."""
    return max(1, min(BATCH, NUMBERS // model.schema.size))


def explained(model: Model, split: Split) -> np.ndarray:
    """All items as the likelihood models them, ``(N, *event)``: binarised if the schema says so."""
    return gather((batch.x.numpy() for batch in batches(split, model.schema, at_once(model))), len(split))


def each_batch(
    model: Model,
    split: Split,
    size: int | None = None,
    progress: Progress | None = None,
    turn: np.ndarray | None = None,
) -> Iterator[Batch]:
    """The batches of a split on the model's device, in the order of the split or of ``turn``."""
    done = 0
    for batch in batches(split, model.schema, at_once(model) if size is None else size, turn=turn):
        yield batch.to(model.device)
        done += len(batch.x)
        if progress:
            progress(done, len(split) if turn is None else len(turn))


def map_batches(
    task: Callable[[Model, Given], Piece],
    model: Model,
    data: Split | Iterable[Given],
    *,
    size: int | None = None,
    turn: np.ndarray | None = None,
    total: int = 0,
    progress: Progress | None = None,
    parallel: bool = False,
) -> Iterator[Piece]:
    """Apply a task to batch after batch.

    Args:
        task: from the model and a batch to its rows: an array, or a named tuple of arrays, with one row per item.
        model: the model.
        data: a split in the model's form, see :func:`items`; or any iterable of batches, such as a stream. Noise is
            keyed by ``batch.index``: a stream sets it to keys of its own, or to the content by
            :func:`keyed_by_content`. Arrays (rows of latents, for decoding) are passed to the task unchanged.
        size: the number of items in a batch, by default :func:`at_once`; only for a split.
        turn: the numbers of the items to take, in this order, by default all; only for a split.
        total: the number of items in a stream, for the progress.
        progress: called with (items done, items in total) after each batch.
        parallel: compute several batches at the same time on the CPU, see :func:`side_by_side`. The task must then be
            safe in threads. The results may differ in the last bits from those of one batch after the other.

    Yields:
        The rows of every batch, in order. A batch is read when it is needed, so that memory does not grow with the
        number of batches.
    """
    stream: Iterable[Batch | np.ndarray] = data  # type: ignore[assignment]
    if isinstance(data, Split):
        stream = each_batch(model, data, size, turn=turn)
        total = len(data) if turn is None else len(turn)

    def work(batch: Batch | np.ndarray) -> tuple[int, Piece]:
        if isinstance(batch, Batch):
            return len(batch.x), task(model, batch.to(model.device))  # type: ignore[arg-type]
        return len(batch), task(model, batch)  # type: ignore[arg-type]

    done = 0
    for count, rows in side_by_side(work, stream, model.device) if parallel else map(work, stream):
        done += count
        if progress:
            progress(done, total)
        yield rows


def gather(pieces: Iterable[Piece], n: int) -> Piece:
    """Collect the rows of several batches in one array, which is allocated once.

    Args:
        pieces: arrays, or named tuples of which some fields are arrays: at least one, all with the same fields, types
            and shapes of a row. The fields of a named tuple that are not arrays are those of the first.
        n: the number of rows in total, at most.

    Returns:
        One array, or one named tuple, with all rows that there were.

        >>> gather(iter([np.zeros((2, 3)), np.ones((1, 3))]), 3).shape
        (3, 3)
    """
    first: Piece | None = None
    wholes: list[np.ndarray] = []
    done = 0
    for piece in pieces:
        parts = _arrays(piece)
        if first is None:
            first = piece
            wholes = [np.empty((n, *part.shape[1:]), part.dtype) for part in parts]
        end = done + len(parts[0])
        if end > n:
            raise ValueError(f"there must be at most {n} rows, got {end}")
        for whole, part in zip(wholes, parts, strict=True):
            whole[done:end] = part
        done = end
    if first is None:
        raise ValueError("there must be at least one batch")
    if done < n:
        wholes = [whole[:done].copy() for whole in wholes]
    if isinstance(first, np.ndarray):
        return wholes[0]  # type: ignore[return-value]
    left = iter(wholes)
    return type(first)(*(next(left) if isinstance(v, np.ndarray) else v for v in first))  # type: ignore


def _arrays(piece: object) -> list[np.ndarray]:
    """The arrays in the rows of one batch."""
    if isinstance(piece, np.ndarray):
        return [piece]
    assert isinstance(piece, tuple)
    return [value for value in piece if isinstance(value, np.ndarray)]


def keyed_by_content(batch: Batch) -> Batch:
    """The batch with its items numbered by their content, which the noise of evaluation is keyed by: an item of a
    stream then has the same noise wherever and whenever it arrives.

    >>> x = torch.tensor([[1.0, 0.0], [2.0, 3.0], [1.0, -0.0]])
    >>> a, b, c = keyed_by_content(Batch(x, None, {}, torch.arange(3))).index
    >>> bool(a == c), bool(a == b)
    (True, False)
    """
    x = (batch.x + 0.0).cpu().numpy()  # -0 + 0 is 0: equal rows, equal bytes
    numbers = torch.tensor([key(row.tobytes().hex()) for row in x], device=batch.index.device)
    return batch._replace(index=numbers)


def side_by_side(work: Callable[[Piece], Found], pieces: Iterable[Piece], device: str) -> Iterator[Found]:
    """Apply ``work`` to every piece, such as a batch, and yield the results in order.

    On the CPU, several pieces are computed at the same time, each by its share of the threads. Where matrices are small
    and much of the time is spent outside of them, this is faster than all threads on one piece.

    Args:
        work: called in threads, which share the model.
        pieces: taken as they are needed.
        device: the device of the model; on a GPU, pieces are computed one after the other.
    """
    threads = torch.get_num_threads()
    workers = 1 if device != "cpu" else min(threads, WORKERS)
    if workers == 1:
        yield from map(work, pieces)
        return

    def in_thread(piece: Piece) -> Found:
        torch.set_num_threads(threads // workers)  # of this thread
        return work(piece)

    waiting: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(in_thread, piece))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

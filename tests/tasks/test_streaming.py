"""Tasks and writers batch by batch: the same results as in one piece, in bounded memory, and no partial output."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import ladle
from commands import Ladle, nothing_left
from ladle.data import Batch, DataError, Schema, Split, batches, rehearse, write
from ladle.store.folder import Model
from ladle.tasks import encode as encode_module
from ladle.tasks.common import gather, keyed_by_content, map_batches
from ladle.tasks.encode import decode_batches, encode_batch, encode_batches
from ladle.tasks.interpolate import interpolate_batches, rebatch
from ladle.tasks.reconstruct import reconstruct_batch, reconstruct_batches
from ladle.tasks.sample import sample_batch, sample_batches
from ladle.tasks.score import score_batches
from toys import narrow

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(50, 3)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (7, 3, 6, 4), dtype=np.uint8)
FORMATS = (".npy", ".npz", ".csv", ".parquet", ".png", "")


@cache
def model_of(recipe: str) -> Model:
    data = ladle.read("digits")
    vae = ladle.assemble(data.schema, narrow(recipe, data.schema), seed=3).model.eval().requires_grad_(False)
    return Model(vae, data.schema, {}, "cpu")


def digits(n: int = 60) -> Split:
    return ladle.read("digits").all.take(np.arange(n))


# ------------------------------------------------------------------------------------------------------- tasks

TASKS: dict[str, tuple[Callable, Callable]] = {
    "encode": (lambda m: ladle.encode(m, digits(), batch=7), lambda m: encode_batches(m, digits(), batch=7)),
    "top level": (
        lambda m: ladle.encode(m, digits(), levels="top"),
        lambda m: encode_batches(m, digits(), levels="top"),
    ),
    "decode": (
        lambda m: ladle.decode(m, ladle.encode(m, digits()), batch=9),
        lambda m: decode_batches(m, ladle.encode(m, digits()), batch=9),
    ),
    "reconstruct": (
        lambda m: ladle.reconstruct(m, digits(), draws=2, keep=1, seed=4, batch=25),
        lambda m: reconstruct_batches(m, digits(), draws=2, keep=1, seed=4, batch=25),
    ),
    "sample": (
        lambda m: ladle.sample(m, 300, temperature=0.8, seed=2, noise=True),
        lambda m: sample_batches(m, 300, temperature=0.8, seed=2, noise=True),
    ),
    "interpolate": (
        lambda m: ladle.interpolate(m, digits(), digits(), steps=5),
        lambda m: interpolate_batches(m, digits(), digits(), steps=5),
    ),
    "score": (
        lambda m: ladle.score(m, digits(), samples=5, batch=7),
        lambda m: score_batches(m, digits(), samples=5, batch=7),
    ),
}


@pytest.mark.parametrize("recipe", ["vae", "vdvae"])
@pytest.mark.parametrize("task", TASKS)
def test_batches_are_the_whole_result(recipe: str, task: str) -> None:
    whole, pieces = TASKS[task]
    model = model_of(recipe)
    expected, found = whole(model), list(pieces(model))
    assert len(found) > 1 or task == "top level"
    assert all(piece.dtype == expected.dtype for piece in found)
    assert np.array_equal(np.concatenate(found), expected)


@pytest.mark.parametrize("steps", [2, 7, 300])
def test_an_interpolation_does_not_depend_on_how_lines_fill_batches(steps: int) -> None:
    model = model_of("vae")
    a, b = digits(3), digits(6).take(np.arange(3, 6))
    found = np.concatenate(list(interpolate_batches(model, a, b, steps=steps)))
    za, zb = (ladle.encode(model, end)[:, None] for end in (a, b))
    weight = np.linspace(0, 1, steps, dtype=np.float32)[None, :, None]
    line = ((1 - weight) * za + weight * zb).reshape(3 * steps, -1)
    assert np.array_equal(found.reshape(3 * steps, 1, 8, 8), ladle.decode(model, line))


def test_a_stream_goes_through_the_function_of_a_split() -> None:
    model = model_of("vae")
    stream = iter(batches(digits(), model.schema, 11))
    found = gather(map_batches(encode_batch, model, stream), 60)
    assert np.array_equal(found, ladle.encode(model, digits(), batch=11))
    shown: list[tuple[int, int]] = []
    blanks = iter([model.vae.blank(4), model.vae.blank(3)])
    pieces = map_batches(partial(sample_batch, seed=1), model, blanks, total=7, progress=lambda *at: shown.append(at))
    assert [len(piece) for piece in pieces] == [4, 3]
    assert shown == [(4, 7), (7, 7)]


def test_the_noise_of_a_stream_is_keyed_by_content_or_by_its_own_keys() -> None:
    model, n = model_of("vae"), 12
    task = partial(reconstruct_batch, draws=3, seed=5)
    shuffled = np.random.default_rng(1).permutation(n)

    def stream(order: np.ndarray, size: int) -> Iterator[Batch]:
        """Items that are numbered from 0 in every batch."""
        for start in range(0, n, size):
            yield next(batches(digits(n).take(order[start : start + size]), model.schema, size))

    for key in (keyed_by_content, lambda batch: batch._replace(index=1000 + batch.x.sum((1, 2, 3)).long())):
        first = gather(map_batches(task, model, map(key, stream(np.arange(n), 5))), n)
        second = gather(map_batches(task, model, map(key, stream(shuffled, 3))), n)
        np.testing.assert_allclose(second, first[shuffled], atol=1e-3)
    unkeyed = [gather(map_batches(task, model, stream(order, 5)), n) for order in (np.arange(n), shuffled)]
    assert np.abs(unkeyed[1] - unkeyed[0][shuffled]).max() > 1


def test_batches_in_parallel_arrive_in_order() -> None:
    model, threads = model_of("vae"), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = list(map_batches(encode_batch, model, digits(), size=7, parallel=True))
    finally:
        torch.set_num_threads(threads)
    assert [len(piece) for piece in found] == [7] * 8 + [4]
    np.testing.assert_allclose(np.concatenate(found), ladle.encode(model, digits()), atol=1e-5)


def test_decoding_moves_one_batch_of_latents_at_a_time_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = model_of("vae"), []
    z = ladle.encode(model, digits())
    real = torch.Tensor.to

    def to(tensor: torch.Tensor, *where: object, **more: object) -> torch.Tensor:
        if tensor.dim() == 2 and tensor.shape[1:] == z.shape[1:]:
            sizes.append(len(tensor))
        return real(tensor, *where, **more)

    monkeypatch.setattr(torch.Tensor, "to", to)
    assert ladle.decode(model, z, batch=8).shape == (60, 1, 8, 8)
    assert sizes
    assert max(sizes) == 8


class Found(NamedTuple):
    name: str
    nats: np.ndarray
    curve: np.ndarray


def test_gathering() -> None:
    parts = [Found("iwae", np.full(n, n, np.float64), np.zeros((n, 2), np.float32)) for n in (3, 1)]
    found = gather(iter(parts), 4)
    assert (found.name, found.nats.tolist(), found.curve.shape) == ("iwae", [3, 3, 3, 1], (4, 2))
    assert found.curve.dtype == np.float32
    fewer = gather(iter(parts), 1000)
    assert fewer.nats.tolist() == [3, 3, 3, 1]
    assert fewer.nats.base is None, "what was allocated for 1,000 items is released"
    with pytest.raises(ValueError, match="at most 3 rows"):
        gather(iter(parts), 3)
    with pytest.raises(ValueError, match="at least one batch"):
        gather(iter([]), 3)


def test_gathering_allocates_the_result_once() -> None:
    def rows() -> Iterator[np.ndarray]:
        for _ in range(100):
            yield np.ones((1000, 20), np.float32)

    tracemalloc.start()
    try:
        whole = gather(rows(), 100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert whole.sum() == whole.size
    assert peak < 1.2 * whole.nbytes


@pytest.mark.parametrize("sizes", [(1, 1, 1), (10,), (3, 0, 9, 5), (4, 4)])
@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_rebatching_keeps_the_rows(sizes: Sequence[int], size: int) -> None:
    rows = np.arange(2 * sum(sizes)).reshape(-1, 2)
    found = list(rebatch(np.split(rows, np.cumsum(sizes)[:-1]), size))
    assert np.array_equal(np.concatenate(found), rows)
    assert all(len(piece) == size for piece in found[:-1])
    assert 0 < len(found[-1]) <= size


# ----------------------------------------------------------------------------------------------------- writers


def cut(array: np.ndarray, size: int = 2) -> Iterator[np.ndarray]:
    for start in range(0, len(array), size):
        yield array[start : start + size]


def content(path: Path) -> dict[str, bytes]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_rows_in_pieces_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for values in (ROWS, ROWS[:, 0], ROWS[:1], ROWS[:0].reshape(0, 3)):
        whole = write(values, tmp_path / f"whole{suffix}", force=True)
        parts = write(iter([*cut(values)] or [values]), tmp_path / f"parts{suffix}", force=True)
        assert content(whole).popitem()[1] == content(parts).popitem()[1]


@pytest.mark.parametrize("images", [IMAGES, IMAGES / np.float32(255), IMAGES - np.float32(9.5)])
@pytest.mark.parametrize("suffix", [".png", ""])
def test_images_in_pieces_give_the_same_bytes(tmp_path: Path, suffix: str, images: np.ndarray) -> None:
    names = None if suffix else [f"{'ab'[i % 2]}/{i}.png" for i in range(len(images))]
    whole = write(images, tmp_path / f"whole{suffix}", names=names)
    parts = write(cut(images), tmp_path / f"parts{suffix}", names=names)
    assert content(whole) == content(parts)
    assert len(content(whole)) >= (1 if suffix else len(images))


def test_tables_in_pieces_have_the_same_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladle.data.writers._ROW_GROUP", 100)
    schema = Schema("table", (3,), "bytes")
    several = RNG.normal(size=(10, 4, 3)).astype(np.float32)
    for i, (values, names) in enumerate([(ROWS, ["a", "b", "c"]), (several, None)]):
        whole = pq.read_table(write(values, tmp_path / f"{i}.parquet", schema=schema, names=names))
        parts = write(cut(values), tmp_path / f"{i}-parts.parquet", schema=schema, names=names)
        assert pq.read_metadata(parts).num_row_groups > 1
        assert pq.read_table(parts).equals(whole)
        assert pq.read_schema(parts).equals(whole.schema, check_metadata=True)
    columns = {"n": np.arange(9), "name": np.array(list("abcdefghi"))}
    pieces = ({name: column[i : i + 4] for name, column in columns.items()} for i in range(0, 9, 4))
    found = pq.read_table(write(pieces, tmp_path / "columns.parquet"))
    assert found.to_pydict() == {name: column.tolist() for name, column in columns.items()}


def test_pieces_that_do_not_fit_together(tmp_path: Path) -> None:
    for second in (ROWS.astype(np.float64), ROWS[:, :2]):
        with pytest.raises(DataError, match=r"all rows of an \.npy file must be float32"):
            write(iter([ROWS, second]), tmp_path / "a.npy")
    for suffix in FORMATS:
        with pytest.raises(DataError, match="got no rows"):
            write(iter([]), tmp_path / f"a{suffix}")
    for names in (["a"], [str(i) for i in range(9)]):
        with pytest.raises(DataError, match="a name for each"):
            write(cut(IMAGES), tmp_path / "a", names=names)
    with pytest.raises(DataError, match="NaN or infinity"):
        write(iter([IMAGES / np.float32(255), np.full((1, 3, 6, 4), np.nan, np.float32)]), tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, error: type[BaseException], old: bool
) -> None:
    monkeypatch.setattr("ladle.data.writers._ROW_GROUP", 10)  # so that parts of a table were written before
    values, out = (IMAGES if suffix in (".png", "") else ROWS), tmp_path / f"out{suffix}"
    if old:
        write(values[:1], out)
    before = content(tmp_path)
    closed: list[bool] = []

    def failing() -> Iterator[np.ndarray]:
        try:
            yield values[:2]
            yield values[2:4]
            raise error
        finally:
            closed.append(True)

    with pytest.raises(error):
        write(failing(), out, force=old)
    assert content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == int(old)
    assert closed


def test_a_writer_that_fails_closes_the_task(tmp_path: Path) -> None:
    closed: list[bool] = []

    def rows() -> Iterator[np.ndarray]:
        try:
            yield ROWS
            yield ROWS.astype(np.int32)
            yield ROWS
        finally:
            closed.append(True)

    pieces = rows()
    with pytest.raises(DataError):
        write(pieces, tmp_path / "a.npy")
    assert closed, "a task holds threads until it is closed"
    with pytest.raises(DataError, match="--force"):
        write(rows(), write(ROWS, tmp_path / "b.npy"))
    rehearse(ROWS, tmp_path / "c.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["b.npy"]


def peak_of(path: Path, pieces: int) -> int:
    """The peak memory of NumPy, and what Arrow holds in the end, while this number of pieces is written."""
    shape = (1 << 14, 16) if path.suffix else (64, 1, 4, 4)

    def rows() -> Iterator[np.ndarray]:
        for _ in range(pieces):
            yield np.full(shape, 7, np.float32)

    tracemalloc.start()
    try:
        write(rows(), path, schema=None if path.suffix else Schema("image", (1, 4, 4), "bytes"))
        return tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().bytes_allocated()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix, few, many", [(".npy", 10, 60), (".csv", 4, 12), (".parquet", 6, 30), ("", 2, 8)])
def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, few: int, many: int
) -> None:
    """A piece is 1 MiB, of images 4 KiB."""
    monkeypatch.setattr("ladle.data.writers._ROW_GROUP", 2 << 20)
    peak_of(tmp_path / f"imports{suffix}", 1)
    peaks = [peak_of(tmp_path / f"{pieces}{suffix}", pieces) for pieces in (few, many)]
    assert peaks[1] < 1.1 * peaks[0] + (1 << 15)


# ------------------------------------------------------------------------------------------------- command line


def test_the_command_line_writes_each_batch_before_the_next_is_computed(
    call: Ladle, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    @contextmanager
    def counting(path: Path, schema: object, names: object) -> Iterator[Callable]:
        yield lambda rows: events.append(f"write {len(rows)}")

    def watched(name: str, module: object) -> None:
        real = getattr(module, name)

        def task(*arguments: object, **options: object) -> np.ndarray:
            events.append("compute")
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, task)

    monkeypatch.setattr(sys.modules["ladle.data.write"], "registered", lambda kind: {"npy": counting})
    monkeypatch.setattr("ladle.tasks.common.NUMBERS", 64 * 100)  # 100 items in a batch
    import ladle.tasks.reconstruct
    import ladle.tasks.sample

    np.save(tmp_path / "z.npy", np.zeros((250, 3), np.float32))
    for module, name, verb in (
        (encode_module, "encode_batch", ("encode", digits_run, "digits", "o.npy", "--split", "train")),
        (encode_module, "decode_batch", ("decode", digits_run, "z.npy", "o.npy")),
        (ladle.tasks.reconstruct, "reconstruct_batch", ("reconstruct", digits_run, "digits", "o.npy")),
        (ladle.tasks.sample, "sample_batch", ("sample", digits_run, "o.npy", "-n", 250)),
    ):
        watched(name, module)
        events.clear()
        assert call(*verb, "--force", "--json").json()["items"] == {"encode": 1437, "reconstruct": 180}.get(
            verb[0], 250
        )
        rehearsal, *rest = events
        assert rehearsal == "write 1"
        assert rest[0::2] == ["compute"] * (len(rest) // 2)
        assert set(rest[1:-1:2]) == {"write 100"}
        assert len(rest) > 3


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet", ""])
def test_a_command_that_fails_in_the_middle_leaves_nothing(
    call: Ladle, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    from ladle.tasks import reconstruct as module

    real, calls = module.reconstruct_batch, []

    def failing(model: Model, batch: Batch, **options: object) -> np.ndarray:
        calls.append(len(batch.x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        x = real(model, batch, **options)
        return x if suffix in (".npy", "") else x.reshape(len(x), -1)[:, :3]

    monkeypatch.setattr(module, "reconstruct_batch", failing)
    monkeypatch.setattr("ladle.tasks.common.NUMBERS", 64 * 20)
    monkeypatch.setattr("ladle.data.writers._ROW_GROUP", 10)
    monkeypatch.setattr("ladle.cli.tasks.rehearse", lambda *_, **__: None)
    assert call("reconstruct", digits_run, "digits", f"o{suffix}").status == 130
    assert calls == [20, 20, 20]
    nothing_left(tmp_path)
    assert not list(tmp_path.iterdir())

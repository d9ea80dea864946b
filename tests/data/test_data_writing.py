"""Writers: written data can be read back, and no partially written file remains."""

import errno
import os

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ladle.data import Column, DataError, Schema, Split, atomic_file, atomic_folder, grey_levels, read, sheet, write

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(10, 3)).astype(np.float32)
PICTURES = RNG.integers(0, 256, (5, 3, 6, 4), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet", ".NPY"])
def test_tables_round_trip(tmp_path, suffix):
    schema = Schema("table", (3,), [Column("real", name, 0.0, 1.0) for name in "abc"])
    path = write(ROWS, tmp_path / f"out{suffix}", schema=schema)
    dataset = read(path)
    assert (dataset.all.x == ROWS).all()
    if suffix in (".csv", ".parquet"):
        assert dataset.schema.names == ("a", "b", "c")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o044  # as readable as any new file


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_of_many_batches(tmp_path, suffix, monkeypatch):
    """Batches of other sizes and types than the first, texts that become longer, and several row groups."""
    monkeypatch.setattr("ladle.data.writers._ROW_GROUP", 200)
    sizes = [0, 3, 1, 40, 2]
    names = [np.array([f"{'x' * (1 + i)}{j}" for j in range(n)], str) for i, n in enumerate(sizes)]
    values = [
        np.arange(n, dtype=np.int64 if i < 2 else np.float64) + (0 if i < 2 else 0.5) for i, n in enumerate(sizes)
    ]
    path = write(({"name": a, "value": b} for a, b in zip(names, values, strict=True)), tmp_path / f"t{suffix}")
    table = (pa.csv.read_csv if suffix == ".csv" else pq.read_table)(path)
    assert table["name"].to_pylist() == [str(text) for part in names for text in part]
    assert table["value"].to_pylist() == np.concatenate(values).tolist()
    parts = [{"a": np.zeros(2), "b": np.zeros(2)}, {"a": np.zeros(2)}]
    with pytest.raises(DataError, match="the same columns, a, b; got a"):
        write(iter(parts), tmp_path / f"other{suffix}")
    assert not (tmp_path / f"other{suffix}").exists()


def test_arrays_by_name(tmp_path):
    write({"mean": ROWS, "scale": ROWS[:, 0]}, tmp_path / "a.npz")
    assert set(np.load(tmp_path / "a.npz")) == {"mean", "scale"}
    write({"score": ROWS[:, 0], "name": np.array(["x"] * 10)}, tmp_path / "s.csv")
    back = read(tmp_path / "s.csv", labels="name")
    assert (back.schema.names, back.schema.label_names) == (("score",), ("x",))
    with pytest.raises(DataError, match="1-D and equally long"):
        write({"score": ROWS, "n": ROWS[:, 0]}, tmp_path / "t.csv")
    with pytest.raises(DataError, match="one array"):
        write({"a": ROWS}, tmp_path / "t.npy")
    with pytest.raises(DataError, match="Python objects"):
        write({"a": np.array([{}])}, tmp_path / "t.npz")
    with pytest.raises(DataError, match="10, 3, 1"):
        write(ROWS[..., None], tmp_path / "t.csv")
    with pytest.raises(DataError, match="different name"):
        write(ROWS, tmp_path / "t.csv", names=("a", "a", "b"))


def test_folder_of_images_round_trips(tmp_path):
    write(PICTURES, tmp_path / "out")
    dataset = read(tmp_path / "out")
    assert (dataset.all.x == PICTURES).all()
    assert dataset.all.names[0] == "000000.png"
    write(PICTURES, tmp_path / "named", names=["k/a.jpg", "k/a.png", "b", "c.d.png", "e.tif"])
    assert read(tmp_path / "named").all.names == ("b.png", "c.d.png", "e.png", "k/a-1.png", "k/a.png")


def test_a_file_and_a_folder_of_the_same_name_do_not_clash(tmp_path):
    write(PICTURES[:3], tmp_path / "out", names=["a.jpg", "a.png/b.png", "A.png"])
    assert sorted(read(tmp_path / "out").all.names) == ["A-2.png", "a-1.png", "a.png/b.png"]


ELSEWHERE = ["c:a.png", "a\\b.png"] if os.name == "nt" else []


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "", "a/../../b.png", "a\0.png", "\ud800.png", *ELSEWHERE])
def test_names_stay_inside_the_folder(tmp_path, name):
    with pytest.raises(DataError, match="inside the folder"):
        write(PICTURES[:1], tmp_path / "out", names=[name])
    assert not list(tmp_path.iterdir())


def test_sheet(tmp_path):
    write(PICTURES, tmp_path / "s.png")
    page = np.asarray(Image.open(tmp_path / "s.png"))
    assert page.shape == (2 * 8 - 2, 3 * 6 - 2, 3)
    assert (page[:6, :4] == PICTURES[0].transpose(1, 2, 0)).all()
    assert (page[6:8] == 255).all()
    write(PICTURES[:1, :1], tmp_path / "one.png")
    assert np.asarray(Image.open(tmp_path / "one.png")).shape == (6, 4)
    assert sheet(np.zeros((6, 2, 2, 1), np.uint8), columns=6).shape == (2, 22)


def test_grey_levels():
    grey = Schema("image", (1, 1, 2), "binary")
    assert grey_levels(np.array([[[[0.0, 1.0]]]]), grey).ravel().tolist() == [0, 255]
    assert grey_levels(np.array([[[[0.5, 1.0]]]])).ravel().tolist() == [128, 255]
    assert grey_levels(np.array([[[[-3.0, 1.0]]]])).ravel().tolist() == [0, 255]
    assert grey_levels(np.array([[[[300.0, 1.4]]]]), Schema("image", (1, 1, 2), "bytes")).ravel().tolist() == [255, 1]
    with pytest.raises(DataError, match="finite"):
        grey_levels(np.full((1, 1, 2, 2), np.nan))
    with pytest.raises(DataError, match="C = 1 or 3"):
        grey_levels(np.zeros((1, 2, 2, 2)))


def test_existing_outputs_are_refused(tmp_path):
    for name in ("a.npy", "folder"):
        values = PICTURES
        write(values, tmp_path / name)
        with pytest.raises(DataError, match="--force"):
            write(values, tmp_path / name)
        write(values[:2], tmp_path / name, force=True)
    assert len(np.load(tmp_path / "a.npy")) == 2
    assert len(list((tmp_path / "folder").iterdir())) == 2
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="files other than PNG"):
        write(PICTURES, tmp_path / "folder", force=True)
    (tmp_path / "plain").write_text("x")
    with pytest.raises(DataError, match="got a file"):
        write(PICTURES, tmp_path / "plain", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "folder", "plain"]


def test_invalid_outputs_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"must end in \.csv \.npy"):
        write(ROWS, tmp_path / "a.xyz")
    with pytest.raises(DataError, match="must exist"):
        write(ROWS, tmp_path / "no" / "a.npy")
    (tmp_path / "empty").mkdir()
    write(PICTURES, tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) == 5


def disk_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "name, writer",
    [("a.npy", "numpy.lib.format.write_array_header_1_0"), ("a.npz", "numpy.savez_compressed"),
     ("a.csv", "pyarrow.csv.CSVWriter"),
     ("a.parquet", "pyarrow.parquet.ParquetWriter"), ("a.png", "PIL.Image.Image.save"), ("a", "PIL.Image.Image.save"),
     ("a.npy", "os.fsync"), ("a.npy", "os.replace")],
)  # fmt: skip
@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk_leaves_no_partial_file(tmp_path, monkeypatch, name, writer, old):
    values = PICTURES if name in ("a.png", "a") else ROWS
    if old:
        write(values[:1], tmp_path / name)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(writer, disk_full)
        with pytest.raises(OSError, match="No space left"):
            write(values, tmp_path / name, force=old)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert len(list(tmp_path.iterdir())) == int(old)


@pytest.mark.parametrize("atomic, name", [(atomic_file, "a.json"), (atomic_folder, "b")])
def test_temporary_files_are_hidden_siblings_and_are_removed(tmp_path, atomic, name):
    def fail():
        with atomic(tmp_path / name) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(".")
            (temporary / "x" if temporary.is_dir() else temporary).write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


def test_split_names_are_those_of_the_files(tmp_path):
    split = Split(PICTURES, names=tuple(f"n{i}.png" for i in range(5)))
    write(split.x, tmp_path / "out", names=split.names)
    assert read(tmp_path / "out").all.names == split.names

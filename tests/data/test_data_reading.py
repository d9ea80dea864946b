"""Arrays, tables, IDX files and named sets."""

import gzip
import lzma
import os
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ladle.data import DataError, Schema, read

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 6, 5), dtype=np.uint8)
REAL = RNG.normal(3, 2, (30, 4))


def npy(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    return tmp_path / "a.npy"


def text(tmp_path, content, name="t.csv"):
    (tmp_path / name).write_text(content)
    return tmp_path / name


def idx(array, kind=8):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    "array, kind, shape, support",
    [
        (BYTES, "image", (1, 6, 5), "bytes"),
        (np.repeat(BYTES[..., None], 3, 3), "image", (3, 6, 5), "bytes"),
        (np.repeat(BYTES[:, None], 3, 1), "image", (3, 6, 5), "bytes"),
        (BYTES.astype(np.int64), "image", (1, 6, 5), "bytes"),
        (BYTES > 100, "image", (1, 6, 5), "binary"),
        ((BYTES > 100).astype(np.int32), "image", (1, 6, 5), "binary"),
        (BYTES / 255, "image", (1, 6, 5), "real"),
        (BYTES.astype(np.int32) - 5, "image", (1, 6, 5), "real"),
        (REAL, "table", (4,), "real"),
        (REAL.astype(">f4"), "table", (4,), "real"),
        (np.asfortranarray(REAL), "table", (4,), "real"),
        (BYTES[:, 0], "table", (5,), "bytes"),
        (BYTES[:, 0].astype(np.int16), "table", (5,), "real"),
        (REAL > 0, "table", (4,), "binary"),
    ],
)
def test_array_rules(tmp_path, array, kind, shape, support):
    dataset = read(npy(tmp_path, array))
    assert (dataset.schema.kind, dataset.schema.shape, dataset.schema.support) == (kind, shape, support)
    assert len(dataset.all) == len(array)
    assert dataset.default == "all"
    assert Schema.from_json(dataset.schema.to_json()) == dataset.schema
    flat = np.moveaxis(array, 3, 1) if array.ndim == 4 and array.shape[3] == 3 else array
    assert dataset.all.x.ravel() == pytest.approx(flat.ravel().astype(np.float32))


def test_alpha_is_composited_on_white(tmp_path):
    array = np.zeros((4, 2, 2, 4), np.uint8)
    array[0, ..., 3] = 255
    dataset = read(npy(tmp_path, array))
    assert dataset.schema.shape == (3, 2, 2)
    assert "white" in dataset.schema.policy
    assert dataset.all.x[0].max() == 0
    assert dataset.all.x[1].min() == 255


def test_moments_are_of_the_training_rows(tmp_path):
    dataset = read(npy(tmp_path, np.hstack([REAL, np.full((30, 1), 7.0)])))
    assert dataset.schema.loc == pytest.approx(dataset.train.x.mean(0), rel=1e-5)
    assert dataset.schema.scale[:4] == pytest.approx(dataset.train.x[:, :4].std(0), rel=1e-5)
    assert dataset.schema.scale[4] == 1.0


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros(5), r"must be \(N, D\).*got shape \(5,\)"),
        (np.float64(3), "got shape"),
        (np.zeros((2, 2, 2, 2, 2)), "got shape"),
        (np.zeros((3, 2), complex), "complex"),
        (np.array([["a", "b"]]), "text"),
        (np.zeros((0, 4)), "at least one item"),
        (np.zeros((5, 3, 32, 3), np.uint8), "could be either"),
        (np.zeros((5, 2, 8, 8), np.uint8), "is neither"),
        (np.zeros((5, 4, 8, 8)), "alpha"),
        (np.array([[1.0, 2], [3, np.nan], [np.nan, 1]]), "2 NaN, the first at row 1, column 1; use --missing nan"),
        (np.array([[1.0, 2], [3, np.inf]]), "1 infinite .* row 1, column 1"),
        (np.array([[1.0, 2], [3, 1e300]]), "3.4e38"),
    ],
)
def test_array_errors(tmp_path, array, message):
    with pytest.raises(DataError, match=message):
        read(npy(tmp_path, array))


def test_missing_nan_in_arrays(tmp_path):
    array = REAL.copy()
    array[::3, 1] = np.nan
    dataset = read(npy(tmp_path, array), missing="nan")
    assert (dataset.all.observed == ~np.isnan(array)).all()
    assert dataset.all.x[0, 1] == pytest.approx(dataset.schema.loc[1])
    with pytest.raises(DataError, match="infinite"):
        read(npy(tmp_path, np.array([[np.nan, np.inf]] * 5)), missing="nan")
    with pytest.raises(DataError, match="--missing must be nan"):
        read(npy(tmp_path, REAL), missing="zero")


@pytest.mark.parametrize("how", ["dynamic", "threshold"])
def test_binarize_requires_bytes(tmp_path, how):
    dataset = read(npy(tmp_path, BYTES), binarize=how)
    assert (dataset.schema.support, dataset.schema.binarize) == ("binary", how)
    assert dataset.all.x.max() > 1  # the grey values are kept
    with pytest.raises(DataError, match="8-bit values"):
        read(npy(tmp_path, REAL), binarize=how)
    with pytest.raises(DataError, match="must be one of"):
        read(npy(tmp_path, BYTES), binarize="maybe")


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("whatever",), ("data",)])
def test_npz_of_one_array(tmp_path, names):
    np.savez(tmp_path / "a.npz", **dict(zip(names, (BYTES, np.arange(20) % 3 + 5), strict=False)))
    dataset = read(tmp_path / "a.npz")
    assert len(dataset.all) == 20
    assert dataset.schema.label_names == (("5", "6", "7") if len(names) == 2 else ())


@pytest.mark.parametrize("form", ["{}", "x_{}", "{}_images"])
def test_npz_of_splits(tmp_path, form):
    arrays = {form.format("train"): BYTES[:15], form.format("test"): BYTES[15:], "y_train": np.arange(15) % 2}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    dataset = read(tmp_path / "a.npz")
    assert (dataset.test.x[:, 0] == BYTES[15:]).all()
    assert dataset.test.labels.tolist() == [-1] * 5
    assert len(dataset.valid) == 1


def test_npz_labels_by_name_and_others_noted(tmp_path):
    np.savez(tmp_path / "a.npz", images=BYTES, subject=np.arange(20) // 5, words=np.array(["a"] * 20))
    assert len(read(tmp_path / "a.npz", labels="subject").schema.label_names) == 4
    assert any("'subject' ignored" in note for note in read(tmp_path / "a.npz").notes)
    with pytest.raises(DataError, match="must name one of its arrays"):
        read(tmp_path / "a.npz", labels="who")
    np.savez(tmp_path / "b.npz", images=BYTES, y=np.arange(7))
    with pytest.raises(DataError, match="20 whole numbers"):
        read(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", foo=BYTES, bar=BYTES)
    with pytest.raises(DataError, match="under one name"):
        read(tmp_path / "c.npz")


@pytest.mark.parametrize(
    "name, pack", [("a.idx", bytes), ("a.idx.gz", gzip.compress), ("a-idx3-ubyte.xz", lzma.compress)]
)
def test_idx(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(idx(BYTES)))
    assert (read(tmp_path / name).all.x[:, 0] == BYTES).all()
    (tmp_path / name).write_bytes(pack(idx(REAL.astype(">f8"), 14)))
    assert read(tmp_path / name).all.x == pytest.approx(REAL.astype(np.float32))


def test_folder_of_idx_files(tmp_path):
    for start, items in (("train", BYTES[:15]), ("t10k", BYTES[15:])):
        (tmp_path / f"{start}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(items)))
        (tmp_path / f"{start}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(items), dtype=np.uint8) % 2))
    dataset = read(tmp_path)
    assert (dataset.test.x[:, 0] == BYTES[15:]).all()
    assert dataset.schema.label_names == ("0", "1")


@pytest.mark.parametrize(
    "content, names, first",
    [
        ("a,b\n1,2.5\n3,4\n5,6\n", ("a", "b"), [1, 2.5]),
        ("1;2.5\n3;4\n5;6\n", (), [1, 2.5]),
        ("a;b\n1,5;2,5\n3;4\n5;6\n", ("a", "b"), [1.5, 2.5]),
        ("a\tb\n1\t2.5\n3\t4\n", ("a", "b"), [1, 2.5]),
        ("\ufeffa,b\n 1, 2.5\n3,4\n", ("a", "b"), [1, 2.5]),
        ('"a, b",c\n1,2.5\n3,4\n', ("a, b", "c"), [1, 2.5]),
        ("id,0,1\n7,2.5,3\n", ("id", "0", "1"), [7, 2.5, 3]),
    ],
)
def test_csv_header_and_delimiter_are_found(tmp_path, content, names, first):
    dataset = read(text(tmp_path, content))
    assert dataset.schema.names == names
    assert dataset.all.x[0].tolist() == first


def test_csv_missing_values(tmp_path):
    dataset = read(text(tmp_path, "a,b\n1,\n,4.5\nNaN,6\n2,nan\n"))
    assert dataset.all.observed.tolist() == [[True, False], [False, True], [False, True], [True, False]]
    assert np.isfinite(dataset.all.x).all()


def test_csv_of_zeros_and_ones_is_binary(tmp_path):
    dataset = read(text(tmp_path, "a,b\n1,0\n0,1\n,1\n"))
    assert dataset.schema.support == "binary"
    assert dataset.all.observed is not None
    assert read(text(tmp_path, "a,b\ntrue,0\nfalse,1\n")).schema.support == "binary"


def test_csv_integers_before_reals_deep_in_the_file(tmp_path):
    dataset = read(text(tmp_path, "a\n" + "1\n" * 700_000 + "1.5\n"))
    assert dataset.all.x[-1, 0] == 1.5


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "at least one row"),
        ("a,b\n", "at least one row"),
        ("a,b\n1,2\n3\n", "same columns"),
        ("a,a\n1,2\n", "must differ, got a more than once"),
        ("a,b\n1,x\n2,y\n", r"columns must contain numbers, got 'b' \(string\); use --labels b"),
        ("a,b\n1,\n2,\n", "every column must have at least one value, got none in b"),
        ("a,b\n1,inf\n2,3\n", "1 infinite .* row 0, column 1"),
    ],
)
def test_csv_errors(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(text(tmp_path, content))


def test_table_labels(tmp_path):
    path = text(tmp_path, "a,kind,n\n1,dog,10\n2,cat,9\n3,,10\n")
    with pytest.raises(DataError, match="--labels kind"):
        read(path)
    dataset = read(path, labels="kind")
    assert dataset.schema.label_names == ("cat", "dog")
    assert dataset.all.labels.tolist() == [1, 0, -1]
    assert dataset.schema.names == ("a", "n")
    with pytest.raises(DataError, match=r"must name a column \(a, kind, n\)"):
        read(path, labels="sort")
    path = text(tmp_path, "a,n\n1,10\n2,9\n3,10\n")
    assert read(path, labels="n").schema.label_names == ("9", "10")
    with pytest.raises(DataError, match="real numbers"):
        read(text(tmp_path, "a,n\n1,1.5\n2,9\n"), labels="n")


def test_parquet(tmp_path):
    table = pa.table(
        {
            "a": [1.5, None, 3.0, 4.0],
            "b": [True, False, True, None],
            "kind": pa.array(["x", "y", "x", "y"]).dictionary_encode(),
            "__index_level_0__": [0, 1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    dataset = read(tmp_path / "t.parquet", labels="kind")
    assert dataset.schema.names == ("a", "b")
    assert dataset.all.observed.tolist() == [[True, True], [False, True], [True, True], [True, False]]
    assert dataset.all.x[0].tolist() == [1.5, 1.0]
    with pytest.raises(DataError, match="--labels kind"):
        read(tmp_path / "t.parquet")
    pq.write_table(pa.table({"a": pa.array([0, 200], pa.uint8())}), tmp_path / "u.parquet")
    assert read(tmp_path / "u.parquet").schema.support == "bytes"


def test_like_makes_data_conform_to_the_schema_of_a_model(tmp_path):
    like = read(text(tmp_path, "a,b,kind\n1.5,2,x\n3,4,y\n5,6,x\n"), labels="kind").schema
    other = read(text(tmp_path, "kind,b,word,a\ny,,hello,7\nz,2,you,8\n", "u.csv"), labels="kind", like=like)
    assert other.all.x.tolist() == [[7, pytest.approx(like.loc[1])], [8, 2]]
    assert other.all.labels.tolist() == [1, -1]
    assert (other.schema.loc, other.schema.label_names, other.schema.source) == (like.loc, like.label_names, "u.csv")
    assert any("word" in note for note in other.notes)
    with pytest.raises(DataError, match="missing: b"):
        read(text(tmp_path, "a\n1\n"), like=like)
    with pytest.raises(DataError, match="must be as the model's"):
        read(npy(tmp_path, BYTES), like=like)
    grey = read(npy(tmp_path, BYTES), binarize="dynamic").schema
    assert read(npy(tmp_path, (BYTES > 9).astype(np.uint8)), like=grey).schema == grey
    with pytest.raises(DataError, match=r"whole numbers 0\.\.255"):
        read(npy(tmp_path, BYTES / 7), like=grey)


def test_a_string_is_a_known_name_first_and_unknown_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("digits.npy", BYTES)
    os.rename("digits.npy", "digits")
    assert read("digits").schema.shape == (1, 8, 8)
    with pytest.raises(DataError, match="must end in one of"):
        read("./digits")
    with pytest.raises(DataError, match=r"no such file or folder.*known names: .*cifar10.*mnist"):
        read("mnits")
    with pytest.raises(DataError, match=r"must end in one of .*npz"):
        read(text(tmp_path, "x", "a.xyz"))


def test_digits():
    dataset = read("digits")
    assert dataset.default == "test"
    assert dataset.schema.label_names == tuple("0123456789")
    assert (dataset.all.x.min(), dataset.all.x.max()) == (0, 255)
    assert len(np.unique(dataset.all.x)) == 17
    with pytest.raises(DataError, match="has its own labels"):
        read("digits", labels="x")


def test_bundled_set():
    dataset = read("fashion-mnist-mini")
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (14_250, 750, 2_500)
    assert dataset.test.labels[:8].tolist() == [9, 2, 1, 1, 6, 1, 4, 6]
    assert dataset.schema.label_names[9] == "ankle boot"
    import ladle.data

    folder = Path(ladle.data.__file__).with_name("bundled")
    assert (folder / "LICENSE-fashion-mnist.txt").read_text().startswith("The MIT License")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8 << 20


def test_cifar10_reads_the_batches_that_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("LADLE_DATA", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    records = RNG.integers(0, 256, (50, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        records.tofile(tmp_path / "cifar10" / f"{name}.bin")
    dataset = read("cifar10")
    assert dataset.notes == ("cifar10: 2 of 5 training batches were found (100 images)",)
    assert (dataset.test.x == records[:, 1:].reshape(50, 3, 32, 32)).all()
    assert (dataset.test.labels == records[:, 0]).all()
    (tmp_path / "cifar10" / "test_batch.bin").write_bytes(bytes(5000))
    with pytest.raises(DataError, match="records of 3073 bytes"):
        read("cifar10")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist-binary", "cifar10", "mnist-static"])
def test_an_unavailable_named_set_lists_its_files(tmp_path, monkeypatch, name):
    monkeypatch.delenv("LADLE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataError, match=r"must be in \$LADLE_DATA/.*LADLE_DATA is not set"):
        read(name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_fetched_files_are_checked_and_kept(tmp_path, monkeypatch):
    import hashlib
    import io

    from ladle.data.fetch import Remote, fetch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    addresses = []

    def urlopen(address, timeout):
        addresses.append(address)
        return io.BytesIO(b"content")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    good = Remote("https://example.org/", {"a": hashlib.sha256(b"content").hexdigest()})
    assert (fetch("set", good) / "a").read_bytes() == b"content"
    fetch("set", good)
    assert addresses == ["https://example.org/a"]
    with pytest.raises(DataError, match="SHA-256"):
        fetch("set", Remote("https://example.org/", {"b": "0" * 64}))
    assert [path.name for path in (tmp_path / "ladle" / "set").iterdir()] == ["a"]


REAL_SETS = pytest.mark.skipif("LADLE_DATA" not in os.environ, reason="LADLE_DATA, the folder of real data, is not set")


@REAL_SETS
@pytest.mark.parametrize(
    "name, counts, support, binarize",
    [
        ("mnist", (57_000, 3_000, 10_000), "bytes", None),
        ("mnist-binary", (57_000, 3_000, 10_000), "binary", "dynamic"),
        ("mnist-static", (50_000, 10_000, 10_000), "binary", None),
        ("fashion-mnist-binary", (57_000, 3_000, 10_000), "binary", "dynamic"),
    ],
)
def test_real_sets(name, counts, support, binarize):
    dataset = read(name)
    assert tuple(len(dataset.split(s)) for s in ("train", "valid", "test")) == counts
    assert (dataset.schema.support, dataset.schema.binarize) == (support, binarize)
    assert dataset.schema.shape == (1, 28, 28)
    with pytest.raises(DataError, match="--binarize"):
        read(name, binarize="threshold" if binarize or support == "binary" else "maybe")


@REAL_SETS
def test_bundled_images_are_the_first_official_ones():
    full, mini = read("fashion-mnist"), read("fashion-mnist-mini")
    assert (full.all.x[:15_000] == mini.all.x[:15_000]).all()
    assert (full.test.x[:2_500] == mini.test.x).all()
    assert (full.test.labels[:2_500] == mini.test.labels).all()

"""Folders of images: conversion to a common size and common channels, classes, splits, labels."""

import numpy as np
import pytest
from PIL import Image

from ladle.data import DataError, read

RNG = np.random.default_rng(0)


def picture(path, mode="RGB", size=(8, 6), level=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], bands) if bands > 1 else (size[1], size[0])
    array = RNG.integers(0, 256, shape, dtype=np.uint8) if level is None else np.full(shape, level, np.uint8)
    image = Image.fromarray(array, mode if mode in ("RGB", "L", "RGBA", "LA") else None)
    image.save(path)
    return array


def test_plain_folder(tmp_path):
    arrays = {name: picture(tmp_path / name) for name in ("b.png", "a.bmp", "sub/c.png", "d.PNG")}
    picture(tmp_path / ".hidden.png")
    picture(tmp_path / ".cache" / "x.png")
    (tmp_path / "readme.txt").write_text("hello")
    dataset = read(tmp_path)
    assert dataset.schema.shape == (3, 6, 8)
    assert dataset.all.names == ("a.bmp", "b.png", "d.PNG", "sub/c.png")
    for x, name in zip(dataset.all.x, dataset.all.names, strict=True):
        assert (x == arrays[name].transpose(2, 0, 1)).all()
    assert any("1 other files ignored: 1 .txt" in note for note in dataset.notes)
    assert dataset.schema.source == tmp_path.name
    assert dataset.all.labels is None


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff"])
def test_every_suffix(tmp_path, suffix):
    picture(tmp_path / f"a.{suffix}", "L", level=100)
    dataset = read(tmp_path / f"a.{suffix}")
    assert dataset.names == ("all",)
    assert len(dataset.all) == 1
    assert abs(dataset.all.x.astype(int) - 100).max() <= 2


def test_all_grey_gives_one_channel(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", "L")
    assert read(tmp_path).schema.shape == (1, 6, 8)


def test_the_most_common_channels_and_size_are_used(tmp_path):
    for i in range(4):
        picture(tmp_path / f"{i}.png", "RGB", (8, 6))
    picture(tmp_path / "grey.png", "L", (8, 6), level=50)
    picture(tmp_path / "big.png", "RGB", (16, 20), level=200)
    dataset = read(tmp_path)
    assert dataset.schema.shape == (3, 6, 8)
    assert (dataset.all.x[dataset.all.names.index("grey.png")] == 50).all()
    assert (dataset.all.x[dataset.all.names.index("big.png")] == 200).all()
    notes = " ".join(dataset.notes)
    assert "5 RGB and 1 grey" in notes
    assert "2 sizes" in notes
    assert "1 of 6 images resized to 8 x 6" in notes
    assert "RGB, 8 x 6" in dataset.schema.policy


def test_equally_common_sizes_give_the_smallest(tmp_path):
    for i, size in enumerate([(20, 20), (5, 4), (9, 9)]):
        picture(tmp_path / f"{i}.png", "L", size)
    assert read(tmp_path).schema.shape == (1, 4, 5)


def test_resizing_covers_and_crops_at_the_centre(tmp_path):
    for i in range(2):
        picture(tmp_path / f"{i}.png", "L", (8, 8))
    wide = np.zeros((16, 48), np.uint8)
    wide[:, 16:32] = 255  # the centre square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    x = read(tmp_path).all.x[2, 0]
    assert x[:, 1:-1].min() > 200


def test_alpha_palettes_16_bit_and_bilevel(tmp_path):
    Image.fromarray(np.zeros((4, 4, 4), np.uint8), "RGBA").save(tmp_path / "clear.png")
    Image.fromarray(np.full((4, 4, 3), (255, 0, 0), np.uint8)).convert("P", palette=Image.Palette.ADAPTIVE).save(
        tmp_path / "palette.png"
    )
    Image.fromarray(np.full((4, 4), 32896, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((4, 4), 255, np.uint8)).convert("1").save(tmp_path / "bit.png")
    dataset = read(tmp_path)
    level = dict(zip(dataset.all.names, dataset.all.x[:, :, 0, 0].tolist(), strict=True))
    assert level == {"clear.png": [255] * 3, "palette.png": [255, 0, 0], "deep.png": [128] * 3, "bit.png": [255] * 3}
    assert any("composited on white" in note and "16 bits" in note for note in dataset.notes)


def test_orientation_is_applied(tmp_path):
    array = np.zeros((8, 4, 3), np.uint8)
    array[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed rotated clockwise by 90 degrees
    for i in range(3):
        Image.fromarray(array).save(tmp_path / f"{i}.jpg", exif=exif, quality=95)
    dataset = read(tmp_path)
    assert dataset.schema.shape == (3, 4, 8)
    assert dataset.all.x[0, 0, 0, 7] > 200
    assert dataset.all.x[0, 0, 0, 0] < 50


def test_first_frame_of_a_gif(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "a.gif").all.x == 10).all()


def test_class_folders_become_labels(tmp_path):
    for i, name in enumerate(["cat/1", "cat/2", "dog/1", "ape/1"]):
        picture(tmp_path / f"{name}.png", level=i)
    dataset = read(tmp_path)
    assert dataset.schema.label_names == ("ape", "cat", "dog")
    assert dataset.all.labels.tolist() == [0, 1, 1, 2]
    picture(tmp_path / "loose.png")
    assert read(tmp_path).all.labels is None


def test_a_single_folder_is_not_a_class(tmp_path):
    for i in range(3):
        picture(tmp_path / f"photos/{i}.png")
    assert read(tmp_path).all.labels is None


def test_official_folders(tmp_path):
    for split, count in (("train", 10), ("val", 2), ("test", 3)):
        for i in range(count):
            picture(tmp_path / split / f"k{i % 2}" / f"{i}.png", "L")
    dataset = read(tmp_path)
    assert [len(dataset.split(s)) for s in ("train", "valid", "test")] == [10, 2, 3]
    assert dataset.schema.label_names == ("k0", "k1")
    assert all(name.startswith("test/") for name in dataset.test.names)
    picture(tmp_path / "extra.png", "L")
    assert read(tmp_path).schema.label_names == ()


@pytest.mark.parametrize("pattern", [r"(\d+)_.*", "*_*.png"])
def test_labels_by_pattern(tmp_path, pattern):
    for name in ("10_a", "9_b", "10_c", "other"):
        picture(tmp_path / f"{name}.png", "L")
    dataset = read(tmp_path, labels=pattern)
    assert dataset.schema.label_names == ("9", "10")
    assert dataset.all.labels.tolist() == [1, 1, 0, -1]


@pytest.mark.parametrize(
    "pattern, message",
    [("(x", "regular expression"), ("(a)(b)", "exactly one group"), ("no", "pattern"), ("(zz)", "no path matches")],
)
def test_wrong_patterns(tmp_path, pattern, message):
    picture(tmp_path / "1_a.png")
    with pytest.raises(DataError, match=message):
        read(tmp_path, labels=pattern)


def test_unreadable_images_are_named_counted_and_skipped(tmp_path):
    for i in range(5):
        picture(tmp_path / f"{i}.png", size=(64, 64))
    (tmp_path / "text.png").write_text("not an image")
    content = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    dataset = read(tmp_path)
    assert len(dataset.all) == 5
    assert all(name[0].isdigit() for name in dataset.all.names)
    note = next(note for note in dataset.notes if "unreadable" in note)
    assert note.startswith("3 of 8 images are unreadable")
    assert all(name in note for name in ("text.png", "cut.png", "nowhere.png"))
    assert str(tmp_path) not in note
    with pytest.raises(DataError, match="every image must be readable"):
        read(tmp_path, strict=True)


def test_folder_of_unreadable_images(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(DataError, match="1 unreadable"):
        read(tmp_path)


def test_folders_without_data(tmp_path):
    with pytest.raises(DataError, match="an empty folder"):
        read(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"got 1 files \(.txt\)"):
        read(tmp_path)
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"t\.csv: give that file instead"):
        read(tmp_path)


def test_unreadable_folder(tmp_path, monkeypatch):
    def refused(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(DataError, match="readable file or folder: Permission denied"):
        read(tmp_path)


def test_like_gives_channels_and_size(tmp_path):
    for i in range(3):
        picture(tmp_path / "train" / f"{i}.png", "L", (8, 8))
    like = read(tmp_path / "train", binarize="threshold").schema
    picture(tmp_path / "new.jpg", "RGB", (30, 20), level=255)
    dataset = read(tmp_path / "new.jpg", like=like)
    assert dataset.schema.shape == (1, 8, 8)
    assert dataset.schema.binarize == "threshold"
    assert dataset.all.x.min() > 250


def test_progress_is_reported(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    seen = []
    read(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2  # the sizes, then the pixels

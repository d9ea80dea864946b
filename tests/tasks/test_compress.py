"""Compression and decompression as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ladle
from commands import command
from ladle.coding.container import Writer
from toys import narrow


@pytest.mark.parametrize("dtype", ["uint8", "int64", ">i2"])
@pytest.mark.parametrize("channel", [True, False])
def test_an_array_comes_back_as_it_was(run, digits, tmp_path, dtype, channel):
    x = (digits if channel else digits[:, 0])[:150].astype(dtype)
    np.save(tmp_path / "x.npy", x)
    made = ladle.compress(run, tmp_path / "x.npy", tmp_path / "x.ladle")
    assert made.items == 150
    assert made.bytes == (tmp_path / "x.ladle").stat().st_size < made.raw
    assert ladle.decompress(tmp_path / "x.ladle", tmp_path / "y.npy", model=run) is None
    y = np.load(tmp_path / "y.npy")
    assert y.dtype == np.dtype(dtype).newbyteorder("<")
    assert y.shape == x.shape
    assert (y == x).all()
    some = ladle.decompress(tmp_path / "x.ladle", model=run, items=(17, 20))
    assert (some.reshape(3, 8, 8) == x[17:20].reshape(3, 8, 8)).all()


def folder_of_images(root: Path) -> dict[str, Image.Image]:
    """Images of many sizes and modes."""
    rng = np.random.default_rng(0)
    (root / "deep" / "er").mkdir(parents=True)
    made = {}
    for name, mode, size in [
        ("a.png", "L", (8, 8)), ("b.png", "L", (19, 5)), ("deep/c.png", "RGB", (9, 16)), ("f.png", "LA", (1, 1)),
        ("deep/er/d.png", "1", (11, 3)), ("e.png", "RGBA", (7, 8)), ("g.png", "P", (20, 8)), ("h.bmp", "L", (8, 24)),
    ]:  # fmt: skip
        planes = {"RGB": 3, "RGBA": 4, "LA": 2}.get(mode, 1)
        pixels = rng.integers(0, 256, (size[1], size[0], planes), np.uint8)
        if mode == "P":
            image = Image.fromarray(pixels[..., 0] % 7, "P")
            image.putpalette(bytes(range(21)) + bytes(747))
        elif mode == "1":
            image = Image.fromarray(pixels[..., 0]).convert("1")
        else:
            image = Image.fromarray(pixels[..., 0] if planes == 1 else pixels, mode)
        image.save(root / name)
        made[name] = image
    return made


def test_images_of_any_size_and_mode_come_back(run, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    made = folder_of_images(root)
    assert command("compress", run, root, tmp_path / "x.ladle") == 0
    assert command("decompress", tmp_path / "x.ladle", tmp_path / "back", "--model", run) == 0
    for name, image in made.items():
        with Image.open((tmp_path / "back" / name).with_suffix(".png")) as back:
            assert back.mode == image.mode, name
            assert back.size == image.size
            assert (np.asarray(back.convert("RGBA")) == np.asarray(image.convert("RGBA"))).all()
    assert sum(p.is_file() for p in (tmp_path / "back").rglob("*")) == len(made)


def test_names_come_back_whatever_they_are(run, tmp_path):
    root = tmp_path / "images"
    (root / "a.png").mkdir(parents=True)
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8))
    for name in ["shot 12:30.png", "back\\slash.png", "a.bmp", "a.png/b.png"]:
        grey.save(root / name)
    assert command("compress", run, root, tmp_path / "x.ladle") == 0
    assert command("decompress", tmp_path / "x.ladle", tmp_path / "back", "--model", run) == 0
    back = sorted(str(p.relative_to(tmp_path / "back")) for p in (tmp_path / "back").rglob("*") if p.is_file())
    assert back == ["a-1.png", "a.png/b.png", "back\\slash.png", "shot 12:30.png"]


def test_a_range_of_a_folder_is_images(run, tmp_path):
    """A range counts images, not the tiles that they were cut into."""
    root = tmp_path / "images"
    root.mkdir()
    made = folder_of_images(root)
    ladle.compress(run, root, tmp_path / "x.ladle", mode="random-access")
    assert command("decompress", tmp_path / "x.ladle", tmp_path / "back", "--model", run, "--range", "1:3") == 0
    back = sorted(p for p in (tmp_path / "back").rglob("*") if p.is_file())
    assert [p.name for p in back] == ["b.png", "c.png"]
    for path, name in zip(back, ("b.png", "deep/c.png"), strict=True):
        with Image.open(path) as image:
            assert (np.asarray(image) == np.asarray(made[name])).all()
    assert command("decompress", tmp_path / "x.ladle", tmp_path / "no", "--model", run, "--range", "7:9") == 2


def test_images_that_break_on_reading_are_named(run, tmp_path, monkeypatch):
    whole = Image.fromarray(np.zeros((40, 40), np.uint8), "P")
    whole.putpalette(bytes(range(256)) * 3)
    whole.save(tmp_path / "whole.png")
    (tmp_path / "cut").mkdir()
    data = (tmp_path / "whole.png").read_bytes()
    for size in range(40, len(data) - 40, 40):
        (tmp_path / "cut" / "a.png").write_bytes(data[:size])
        with pytest.raises(ladle.DataError, match=r"'a.png' cannot be read"):
            ladle.compress(run, tmp_path / "cut", tmp_path / "x.ladle")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ladle.DataError, match=r"'whole.png' cannot be read"):
        ladle.compress(run, tmp_path / "whole.png", tmp_path / "x.ladle")


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 8, 9))])
def test_a_transparent_colour_stays_transparent(run, tmp_path, mode, colour):
    image = Image.new(mode, (8, 8), colour)
    image.putpixel((3, 2), 200 if mode == "L" else (200, 0, 0))
    image.save(tmp_path / "a.png", transparency=colour)
    ladle.compress(run, tmp_path / "a.png", tmp_path / "x.ladle")
    ladle.decompress(tmp_path / "x.ladle", tmp_path / "back", model=run)
    with Image.open(tmp_path / "back" / "a.png") as back, Image.open(tmp_path / "a.png") as before:
        assert (np.asarray(back.convert("RGBA")) == np.asarray(before.convert("RGBA"))).all()
        assert np.asarray(back.convert("RGBA"))[..., 3].sum() == 255


def test_an_image_alone_comes_back_with_its_own_size(run, tmp_path):
    """A photograph is not scaled to the model's size, and an image of several frames is refused."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 21, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    with Image.open(tmp_path / "photo.jpg") as image:
        decoded = np.asarray(image)
    ladle.compress(run, tmp_path / "photo.jpg", tmp_path / "x.ladle")
    ladle.decompress(tmp_path / "x.ladle", tmp_path / "back", model=run)
    with Image.open(tmp_path / "back" / "photo.png") as back:
        assert (np.asarray(back) == decoded).all()
    frames = [Image.fromarray(pixels[..., i]) for i in range(2)]
    frames[0].save(tmp_path / "several.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ladle.DataError, match="2 frames"):
        ladle.compress(run, tmp_path / "several.gif", tmp_path / "y.ladle")


def test_nothing_at_all_can_be_compressed(run, tmp_path):
    made = ladle.compress(run, np.zeros((0, 8, 8), np.uint8), tmp_path / "x.ladle")
    assert made.items == 0
    ladle.decompress(tmp_path / "x.ladle", tmp_path / "y.npy", model=run)
    assert np.load(tmp_path / "y.npy").shape == (0, 8, 8)


def test_the_command_line(run, digits, tmp_path, capsys):
    np.save(tmp_path / "x.npy", digits[:60])
    file = tmp_path / "x.ladle"
    assert command("compress", run, tmp_path / "x.npy", file, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["items"] == 60
    assert told["bytes"] == file.stat().st_size
    assert told["bits_per_dim"] == pytest.approx(8 * told["bytes"] / digits[:60].size)
    assert command("compress", run, tmp_path / "x.npy", file) == 2
    assert "--force" in capsys.readouterr().err
    assert command("info", file, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["mode"], told["items"], told["shape"]) == ("bitsback", 60, [60, 1, 8, 8])
    assert command("verify", file, "--model", run) == 0
    assert "60 items" in capsys.readouterr().out
    assert command("decompress", file, tmp_path / "y.npy") == 2
    assert "--model must name the folder" in capsys.readouterr().err
    assert command("decompress", file, tmp_path / "y.npy", "--model", run, "--range", "5:9") == 0
    assert (np.load(tmp_path / "y.npy").reshape(4, 8, 8) == digits[5:9, 0]).all()
    assert command("decompress", file, tmp_path / "z.npy", "--model", run, "--range", "5-9") == 2
    assert command("decompress", file, tmp_path / "z.npy", "--model", run, "--range", "5:900") == 2
    broken = bytearray(file.read_bytes())
    broken[len(broken) // 2] ^= 1
    file.write_bytes(broken)
    capsys.readouterr()
    assert command("verify", file) == 2
    assert "chunk 0" in capsys.readouterr().out
    assert command("decompress", file, tmp_path / "z.npy", "--model", run) == 2
    assert not (tmp_path / "z.npy").exists()


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (np.zeros((3, 9, 8), np.uint8), "shape"),
        (np.zeros((3, 8, 8), np.float32), "whole numbers"),
        (np.full((3, 8, 8), 300), r"0\.\.255"),
        (np.full((3, 8, 8), -1), r"0\.\.255"),
    ],
)
def test_other_data_is_refused(run, tmp_path, x, what):
    with pytest.raises(ladle.DataError, match=what):
        ladle.compress(run, x, tmp_path / "x.ladle")
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_be_coded_with_are_named(tmp_path):
    data = ladle.read("digits")
    for recipe, change, what in (
        ("vae", {"prior": {"part": "prior/flow"}}, "Flow has no coder"),
        ("vae", {"posterior": {"part": "family/power_spherical"}, "prior": {"part": "prior/standard"}}, "no coder"),
        ("ae", {}, "no prior"),
    ):
        plan = narrow(recipe, data.schema)
        plan["latents"] |= change
        folder = tmp_path / f"{recipe} {what}"
        for _ in ladle.fit(ladle.assemble(data.schema, plan), data, epochs=0.1, run=folder):
            pass
        with pytest.raises(ladle.CodingError, match=what):
            ladle.compress(folder, data.all.x[:9].astype(np.uint8), tmp_path / "x.ladle")
    assert not (tmp_path / "x.ladle").exists()


def test_a_file_of_levels_is_not_binarised_on_the_way(tmp_path):
    """A model of bits binarises the data in ``fit``; compression must not, as it has to restore the data."""
    data = ladle.read("digits", binarize="threshold")
    for _ in ladle.fit(ladle.assemble(data.schema, narrow("vae", data.schema)), data, epochs=1, run=tmp_path / "run"):
        pass
    grey = ladle.read("digits").all.x[:50, 0].astype(np.uint8)
    np.savez(tmp_path / "grey.npz", x=grey)
    with pytest.raises(ladle.DataError, match="binarise the data first"):
        ladle.compress(tmp_path / "run", tmp_path / "grey.npz", tmp_path / "x.ladle")
    np.savez(tmp_path / "bits.npz", x=grey // 128)
    ladle.compress(tmp_path / "run", tmp_path / "bits.npz", tmp_path / "x.ladle")
    ladle.decompress(tmp_path / "x.ladle", tmp_path / "y.npy", model=tmp_path / "run")
    assert (np.load(tmp_path / "y.npy") == grey // 128).all()
    with pytest.raises(ladle.DataError, match="a split must be of a named data set"):
        ladle.compress(tmp_path / "run", tmp_path / "bits.npz", tmp_path / "z.ladle", split="test")


def test_only_the_sender_makes_a_model_in_whole_numbers(run, digits_run, digits, tmp_path):
    ladle.compress(run, digits[:9], tmp_path / "x.ladle")
    before = sorted(digits_run.iterdir())
    for work in (ladle.decompress, ladle.verify):
        with pytest.raises(ladle.ModelError, match=r"exact\.safetensors"):
            work(tmp_path / "x.ladle", model=digits_run)
    assert sorted(digits_run.iterdir()) == before


def test_a_device_that_is_not_there(run, digits, tmp_path, capsys):
    np.save(tmp_path / "x.npy", digits[:9])
    assert command("compress", run, tmp_path / "x.npy", tmp_path / "x.ladle", "--device", "auto") == 0
    assert command("compress", run, tmp_path / "x.npy", tmp_path / "y.ladle", "--device", "gpu") == 2
    assert "device must be auto, cpu or cuda" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert command("decompress", tmp_path / "x.ladle", tmp_path / "y.npy", "--model", run, "--device", "cuda") == 2


def test_what_a_stranger_wrote_does_not_reach_the_terminal(run, digits, tmp_path, capsys):
    header = {"mode": "bitsback", "shape": [1, 8, 8], "model": "\x1b[2J", "name": "\x1b]0;mine\x07"}
    with (tmp_path / "x.ladle").open("wb") as file:
        Writer(file, header).finish(b'{"kind":"array","dtype":"|u1","shape":[0,8,8]}')
    for more in (["info"], ["decompress", tmp_path / "y.npy"], ["decompress", tmp_path / "y.npy", "--model", run]):
        command(more[0], tmp_path / "x.ladle", *more[1:])
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err


@pytest.mark.parametrize(
    "contents",
    [
        '{"kind":"array","dtype":"|u1","shape":[1e400,8,8]}',
        '{"kind":"array","dtype":"|u1","shape":[' + "1," * 40_000 + "1]}",
        '{"kind":"array","dtype":"|O","shape":[0,8,8]}',
        '{"kind":"array","dtype":"|u1","shape":[0,1000000]}',
        '{"kind":"images","files":[["a.png","P",8,8,"RGB:zz"]]}',
        '{"kind":"images","files":[["\\ud800.png","L",8,8,""]]}',
        '{"kind":"images","files":[["../a.png","L",8,8,""]]}',
        '{"kind":"images","files":[["a.png","L",100000000,100000000,""]]}',
        "[" * 100_000,
    ],
)
def test_contents_that_cannot_be_are_refused(run, digits, tmp_path, contents):
    ladle.compress(run, digits[:1], tmp_path / "x.ladle")
    header = {key: value for key, value in ladle.info(tmp_path / "x.ladle").items() if key in ("mode", "model")}
    with (tmp_path / "y.ladle").open("wb") as file:
        Writer(file, header).finish(contents.encode())
    for out in ("y.npy", "y"):
        assert command("decompress", tmp_path / "y.ladle", tmp_path / out, "--model", run) == 2
        assert not (tmp_path / out).exists()
    assert command("verify", tmp_path / "y.ladle", "--model", run) == 2


def test_random_access_needs_only_the_half_that_decodes(run, digits, tmp_path, capsys):
    np.save(tmp_path / "x.npy", digits[:90])
    file, half = tmp_path / "x.ladle", tmp_path / "half.safetensors"
    assert command("compress", run, tmp_path / "x.npy", file, "--mode", "random-access") == 0
    assert command("export", run, half, "--decoder") == 0
    assert half.stat().st_size < (run / "exact.safetensors").stat().st_size
    assert command("decompress", file, tmp_path / "y.npy", "--model", half) == 0
    assert (np.load(tmp_path / "y.npy") == digits[:90]).all()
    assert (ladle.decompress(file, model=half, items=(41, 43)) == digits[41:43]).all()
    assert ladle.compress(run, digits[:90], tmp_path / "z.ladle").chunks == 1
    with pytest.raises(ladle.CodingError, match="bits back, which needs the whole model"):
        ladle.decompress(tmp_path / "z.ladle", model=half)
    assert command("export", run, half) == 2
    assert command("export", run, half, "--decoder") == 2


def test_loss_is_told_and_kept(run, digits, tmp_path):
    made = ladle.compress(run, digits[:90], tmp_path / "x.ladle", quality=20)
    whole = ladle.compress(run, digits[:90], tmp_path / "y.ladle")
    assert made.bytes < whole.bytes
    told = ladle.info(tmp_path / "x.ladle")
    assert told["mode"] == "random-access"
    assert told["step"] > 1
    back = ladle.decompress(tmp_path / "x.ladle", model=run).astype(float)
    assert made.decibels == pytest.approx(10 * np.log10(255**2 / np.square(back - digits[:90]).mean()))
    assert made.decibels > 19.5
    assert whole.decibels is None
    for wrong in (0, -3, 100):
        with pytest.raises(ladle.DataError, match="dB"):
            ladle.compress(run, digits[:9], tmp_path / "z.ladle", quality=wrong)
    with pytest.raises(ladle.DataError, match="bitsback or random-access"):
        ladle.compress(run, digits[:9], tmp_path / "z.ladle", mode="fast")
    with pytest.raises(ladle.DataError, match="booleans"):
        ladle.compress(run, digits[:9] > 9, tmp_path / "z.ladle", quality=20)
    for mode, what in (("P", "has a palette"), ("1", "is black and white")):
        Image.new(mode, (8, 8)).save(tmp_path / "a.png")
        with pytest.raises(ladle.DataError, match=what):
            ladle.compress(run, tmp_path / "a.png", tmp_path / "z.ladle", quality=20)

"""Hostile compressed files and models in whole numbers, which must be refused quickly, before memory is allocated."""

from __future__ import annotations

import io
import json
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import ladle
from ladle.coding.bits_back import BitsBack
from ladle.coding.chunks import make_codec
from ladle.coding.container import CODED, CONTENTS, DATA, LARGEST_CONTENTS, SIGNATURE, STORED, Reader, Writer, digest
from ladle.coding.errors import CodingError, Damaged, Desynchronised, NumericsError
from ladle.coding.model_file import fingerprint, load_integer_model, save_integer_model
from ladle.coding.random_access import STEPS, Quantisation, RandomAccess, _write_length

GOLDEN = Path(__file__).parents[1] / "golden" / "ladle-v1"
About = dict[str, Any]
Tensors = dict[str, torch.Tensor]


# ----------------------------------------------------------------------------------------------- models


def opened(name: str) -> tuple[About, Tensors]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["ladle"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def loaded(about: About | str, tensors: Tensors, path: Path) -> Any:
    text = about if isinstance(about, str) else json.dumps(about)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, {"ladle": text})
    return load_integer_model(path)


def step(about: About, program: str, op: str, last: bool = False) -> About:
    return [s for s in about["programs"][program]["steps"] if s["op"] == op][-1 if last else 0]


def changed(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[About, Tensors], None]:
    """A change of one tensor."""

    def mutate(about: About, tensors: Tensors) -> None:
        tensors[key] = change(tensors[key].long())

    return mutate


def put(tensor: torch.Tensor, place: int, number: int) -> torch.Tensor:
    tensor[place] = number
    return tensor


def doubled(about: About, tensors: Tensors) -> None:
    decode = about["programs"]["decode"]
    decode["steps"].append({"op": "view", "of": [decode["outputs"][0]], "size": [1, 8, 8]})
    decode["steps"].append({"op": "double", "of": [len(decode["steps"])], "times": 10**4})


def viewed(about: About, tensors: Tensors) -> None:
    """Several items become one row, so that the result of an item would depend on others."""
    decode = about["programs"]["decode"]
    decode["steps"].append({"op": "view", "of": [0], "size": [6]})
    decode["outputs"] = [len(decode["steps"])] * 3


def scaled(about: About, tensors: Tensors) -> None:
    """A scale in a step for which the proof reads a shift."""
    step(about, "encode", "affine")["scale"] = "8.scale"


def fractions(about: About, tensors: Tensors) -> None:
    """Exponents in the place of whole numbers."""
    linear = step(about, "decode", "linear")
    linear["bias"] = linear["scale"]


def narrower(about: About, tensors: Tensors) -> None:
    """A posterior with fewer latents than the prior."""
    encode = about["programs"]["encode"]
    for i in range(2):
        encode["steps"].append({"op": "slice", "of": [encode["outputs"][i]], "dimension": 1, "start": 0, "stop": 1})
    encode["outputs"] = [len(encode["steps"]) - 1, len(encode["steps"])]


def mixed(about: About, tensors: Tensors) -> None:
    """Scales with fewer components than locations."""
    decode = about["programs"]["decode"]
    decode["steps"].append({"op": "slice", "of": [decode["outputs"][2]], "dimension": 4, "start": 0, "stop": 1})
    decode["outputs"][2] = len(decode["steps"])


MODELS: dict[str, tuple[str, Callable[[About, Tensors], Any]]] = {
    "a program is missing": ("vq", lambda a, t: a["programs"].pop("encode")),
    "a tensor is missing": ("vq", lambda a, t: t.pop("likelihood/curve")),
    "a large shift": ("vq", lambda a, t: step(a, "encode", "clamp").update(shift=5000)),
    "a shift that is not a whole number": ("vq", lambda a, t: step(a, "encode", "clamp").update(shift=0.5)),
    "limits between whole numbers": ("vq", lambda a, t: step(a, "encode", "clamp").update(high=0.5)),
    "large factors": ("local_colour", lambda a, t: step(a, "1.add", "sum").update(i=5000)),
    "a value before the first": ("vq", lambda a, t: step(a, "encode", "clamp").update(of=[-1])),
    "an output that does not exist": ("vq", lambda a, t: a["programs"]["decode"].update(outputs=[0, 1, 99])),
    "a scale in another step": ("vq", scaled),
    "fractions in a program": ("learned_prior", fractions),
    "a value of gigabytes": ("vq", doubled),
    "items in one row": ("vq", viewed),
    "inputs beyond float32": ("vq", lambda a, t: a["programs"]["decode"]["inputs"][0].__setitem__(1, 1 << 30)),
    "one level": ("learned_prior", lambda a, t: a["likelihood"]["about"].update(levels=1)),
    "more levels than the proof covers": ("learned_prior", lambda a, t: a["likelihood"]["about"].update(levels=4000)),
    "latents beyond the proof": ("learned_prior", lambda a, t: a["grid"]["about"].update(bits=12)),
    "a ladder whose programs do not fit": (
        "local_colour", lambda a, t: a["programs"]["1.p"]["inputs"][0].__setitem__(1, 9),
    ),
    "features that do not exist": ("local_colour", lambda a, t: a.update(reads=[1, 7])),
    "another shape of an item": ("vq", lambda a, t: a.update(shape=[1, 4, 16])),
    "a shape below zero": ("vq", lambda a, t: a.update(shape=[-1, -1])),
    "groups without limit": ("vq", lambda a, t: a.update(growth=1 << 40)),
    "a probe that is not a hash": ("vq", lambda a, t: a.update(probe=7)),
    "fewer latents": ("learned_prior", narrower),
    "components that do not match": ("learned_prior", mixed),
    "fewer offsets": ("learned_prior", changed("likelihood/offset", lambda t: t[:1])),
    "a curve from elsewhere": ("learned_prior", changed("likelihood/curve", lambda t: t + 1)),
    "a curve that falls": ("learned_prior", changed("grid/curve", lambda t: put(t, 1000, 1 << 24))),
    "a curve of one number": ("learned_prior", changed("prior/curve", lambda t: t[-1:])),
    "short rates": ("learned_prior", changed("likelihood/rates", lambda t: t[:-1])),
    "short rates of a grid": ("learned_prior", changed("grid/rates", lambda t: t[:9])),
    "steps beyond the finest": ("learned_prior", changed("grid/steps", lambda t: t + 60)),
    "no exponentials": ("learned_prior", changed("likelihood/exponentials", lambda t: t[:0])),
    "exponentials of zero": ("learned_prior", changed("likelihood/exponentials", lambda t: t * 0)),
    "rows that end early": ("vampprior", changed("prior/rows", lambda t: put(t, -1, (1 << 24) - 1))),
    "rows that fall": ("vampprior", changed("prior/rows", lambda t: put(t, 3, 1 << 24))),
    "fewer components": ("vampprior", changed("prior/loc", lambda t: t[:-1])),
    "fewer latents of a prior": ("vampprior", changed("prior/scale", lambda t: t[:, :1])),
    "short logarithms": ("vampprior", changed("prior/logarithms", lambda t: t[:256])),
    "short octaves": ("vampprior", changed("prior/octaves", lambda t: t[:20])),
    "edges that fall": ("local_colour", changed("quantiles/edges", lambda t: t.flip(0))),
    "fewer middles": ("local_colour", changed("quantiles/middles", lambda t: t[:-1])),
    "fewer places": ("local_colour", changed("likelihood/places", lambda t: t[:-1])),
    "a prior of other codes": ("vq", lambda a, t: a["prior"]["about"].update(classes=3, latents=4)),
}  # fmt: skip


@pytest.mark.parametrize("what", MODELS)
def test_models_are_refused(what: str, tmp_path: Path) -> None:
    name, mutate = MODELS[what]
    about, tensors = opened(name)
    mutate(about, tensors)
    start = time.perf_counter()
    with pytest.raises(ladle.ModelError, match="does not describe a model"):
        loaded(about, tensors, tmp_path / "exact.safetensors")
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("wrong", ["NaN", "Infinity", "1e400", "1" + "0" * 400])
def test_numbers_of_a_model_are_finite(wrong: str, tmp_path: Path) -> None:
    about, tensors = opened("vq")
    text = json.dumps({**about, "bits_per_item": "here"}).replace('"here"', wrong)
    with pytest.raises(ladle.ModelError, match="numbers must"):
        loaded(text, tensors, tmp_path / "exact.safetensors")


def test_an_unchanged_model_is_loaded(tmp_path: Path) -> None:
    for name in ("vq", "vampprior"):
        about, tensors = opened(name)
        model = loaded(about, tensors, tmp_path / "exact.safetensors")
        assert fingerprint(model) == fingerprint(load_integer_model(GOLDEN / f"{name}.safetensors"))


@pytest.mark.parametrize("name", ["learned_prior", "local_colour"])
def test_a_decoder_alone_is_tried_on_this_machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a posterior it decodes fixed bits, and is refused if a network or a loop differs."""
    whole, path = load_integer_model(GOLDEN / f"{name}.safetensors"), tmp_path / "decoder.safetensors"
    save_integer_model(whole, path, decoder=True)
    alone = load_integer_model(path)
    assert alone.probe is None
    assert fingerprint(alone, decoder=True) == fingerprint(whole, decoder=True)
    settings = Quantisation(3, 1)
    x = np.zeros((2, *whole.shape), np.int64)
    assert (RandomAccess(alone, settings).decode(RandomAccess(whole, settings).encode(x), 2) == x).all()
    before = type(whole.grid).values
    monkeypatch.setattr(type(whole.grid), "values", lambda self, k, *some: before(self, k, *some) // 2)
    with pytest.raises(NumericsError, match="must be"):
        load_integer_model(path)
    monkeypatch.undo()
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["ladle"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    del about["decoded"]  # as in older files
    assert fingerprint(loaded(about, tensors, path), decoder=True) == fingerprint(whole, decoder=True)


def test_items_of_other_levels_are_refused() -> None:
    """The inner loops would read beyond the last edge."""
    model = load_integer_model(GOLDEN / "learned_prior.safetensors")
    for codec in (BitsBack(model), RandomAccess(model, Quantisation(3, 1))):
        with pytest.raises(CodingError, match=r"0\.\.255"):
            codec.encode(np.full((1, 1, 8, 8), 256))


def test_a_step_leaves_two_symbols() -> None:
    model = load_integer_model(GOLDEN / "learned_prior.safetensors")
    x = np.arange(64).reshape(1, 1, 8, 8) * 4
    codec = RandomAccess(model, Quantisation(3, STEPS[-1]))
    assert (codec.decode(codec.encode(x), 1) == codec.reconstruct(x)).all()
    for step in (0, 256, 1000):
        with pytest.raises(Damaged, match="below 256"):
            RandomAccess(model, Quantisation(3, step))


def test_long_streams_are_refused() -> None:
    """One stream of 64 MiB among many short ones would need memory for all to be as long."""
    model = load_integer_model(GOLDEN / "vq.safetensors")
    lengths, n = [1 << 26, *[4] * 3000], 3001
    payload = b"".join(map(_write_length, lengths)) + bytes(sum(lengths))
    with pytest.raises(Desynchronised, match="has at most"):
        RandomAccess(model, Quantisation(0, 1)).decode(payload, n)


# ------------------------------------------------------------------------------------------------ files


def sealed(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def headed(text: str) -> bytes:
    return sealed(SIGNATURE + struct.pack("<HHI", 1, 0, len(text)) + text.encode())


@pytest.mark.parametrize("wrong", ["NaN", "-Infinity", "1e400", "1" + "0" * 400, "[[" * 100_000])
def test_numbers_of_a_header_are_finite(wrong: str) -> None:
    with pytest.raises(Damaged, match="the header is not valid JSON"):
        Reader(io.BytesIO(headed(f'{{"step": {wrong}}}')))


@pytest.mark.parametrize(
    "wrong", [{"coarser": 7}, {"coarser": True}, {"step": 5}, {"step": 8.0}, {"sharpest": -1}, {"sharpest": 1 << 31},
              {"sharpest": "1"}, {"sharpest": [1]}, {"coarser": None}],
)  # fmt: skip
def test_settings_of_a_header_are_known_ones(wrong: dict[str, Any]) -> None:
    whole = load_integer_model(GOLDEN / "colour.safetensors")
    with pytest.raises(Damaged, match="settings for random access are not supported"):
        make_codec(whole, "random-access", {"coarser": 0, "step": 8, "sharpest": 0, **wrong})
    assert isinstance(make_codec(whole, "random-access", {"coarser": 0, "step": 8}), RandomAccess)


def head(mark: bytes, how: int, length: int) -> bytes:
    return struct.pack("<4sIIBQ16s", mark, 0, 1, how, length, bytes(16))


@pytest.mark.parametrize("mark", ["plain", "claims", "contents"])
def test_a_file_full_of_marks_is_given_up_on(mark: str) -> None:
    """The bytes that false marks claim to hold are not read without limit."""
    one = {"plain": DATA, "claims": head(DATA, STORED, 300_000), "contents": head(CONTENTS, STORED, 300_000)}[mark]
    data = headed("{}") + one * (400_000 // len(one)) + bytes(400_000)
    start = time.perf_counter()
    reader = Reader(io.BytesIO(data))
    assert time.perf_counter() - start < 1
    assert reader.broken
    assert reader.index == []


def test_what_lies_behind_false_marks_is_found() -> None:
    """As many false marks as a valid chunk may contain by chance, and far more."""
    out = io.BytesIO()
    writer = Writer(out, {})
    false = (DATA + head(DATA, CODED, 200)) * 200
    for payload in (b"first", false, b"last"):
        writer.chunk(1, STORED, payload, digest(payload))
    writer.finish(b"{}")
    data = bytearray(out.getvalue()[:-1])
    data[writer.index[1][0] + 60] ^= 1
    reader = Reader(io.BytesIO(data))
    assert reader.index == [writer.index[0], (0, 0), writer.index[2]]
    assert reader.contents() == b"{}"


def test_contents_are_not_coded_by_a_model() -> None:
    contents = b'{"kind": "array"}'
    for how in (STORED, CODED):
        out = io.BytesIO()
        writer = Writer(out, {})
        at = writer.at
        body = sealed(struct.pack("<4sIIBQ16s", CONTENTS, 0, 0, how, len(contents), digest(contents)) + contents)
        index = struct.pack("<QI", at, 0)
        tail = struct.pack("<QI", at + len(body), len(index))
        end = struct.pack("<I", zlib.crc32(index + tail)) + b"LADLEEND"
        reader = Reader(io.BytesIO(out.getvalue() + body + index + tail + end))
        assert not reader.broken
        if how == STORED:
            assert reader.contents() == contents
        else:
            with pytest.raises(Damaged, match="the table of contents is damaged"):
                reader.contents()


def test_contents_that_no_reader_takes_are_not_written() -> None:
    with pytest.raises(ValueError, match="at most"):
        Writer(io.BytesIO(), {}).finish(bytes(LARGEST_CONTENTS + 1))

"""Model folders that must be refused: by a ModelError in clear words, soon, and without the memory they claim."""

from __future__ import annotations

import copy
import json
import os
import pickle
import resource
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ladle
from ladle.spec import build, parts, to_spec
from ladle.store.folder import skeleton
from toys import narrow

Config = dict[str, Any]
Tensors = dict[str, torch.Tensor]


class Mine:
    """Unpickling this would leave a trace."""

    fired = False

    def __reduce__(self) -> Any:
        return (setattr, (Mine, "fired", True))


@pytest.fixture
def folder(tmp_path: Path, digits_run: Path) -> Path:
    shutil.copytree(digits_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def bounded() -> Iterator[None]:
    """At most 1 GiB more of memory, and 10 seconds."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), limit[1]))
    start = time.perf_counter()
    yield
    resource.setrlimit(resource.RLIMIT_AS, limit)
    assert time.perf_counter() - start < 10


def refused(folder: Path, told: str) -> None:
    with pytest.raises(ladle.ModelError, match=told) as caught:
        ladle.load(folder, "cpu")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not Mine.fired


def test_the_folder_itself_opens(folder: Path, bounded: None) -> None:
    assert ladle.sample(ladle.load(folder, "cpu"), 3).shape == (3, 1, 8, 8)


# ------------------------------------------------------------------------------------------------ config.json

TEXTS = {
    "empty": ("", "cannot be read"),
    "not JSON": ("{'format': 1}", "cannot be read"),
    "cut": ('{"format": 1, "schema": {', "cannot be read"),
    "not UTF-8": (b"\xff\xfe{}", "cannot be read"),
    "nested": ("[" * 10**6, "cannot be read"),
    "a list": ("[]", "must be an object"),
    "a number": ("1", "must be an object"),
    "NaN": ('{"format": 1, "schema": NaN}', "NaN is not valid JSON"),
    "a long number": ('{"format": ' + "9" * 10**5 + "}", "cannot be read"),
    "too large": (b" " * ((16 << 20) + 1), "at most 16 MiB"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_config_files(folder: Path, bounded: None, name: str) -> None:
    text, told = TEXTS[name]
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(folder, told)


def at(config: Config, path: str) -> tuple[Any, str]:
    """The mapping that contains ``a.b.c``, and its key."""
    *outer, last = path.split(".")
    for key in outer:
        config = config[int(key) if isinstance(config, list) else key]
    return config, last


def put(path: str, value: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        inner, key = at(config, path)
        inner[key] = value

    return change


def drop(path: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        inner, key = at(config, path)
        del inner[key]

    return change


def nested(config: Config) -> None:
    for _ in range(300):
        inner = config["model"]["likelihood"]["family"]
        config["model"]["likelihood"]["family"] = {"part": "family/affine", "family": inner, "loc": 0.0, "scale": 1.0}


ENCODER, PRIOR = "model.latents.posterior.net", "model.latents.prior"
FAMILY = "model.likelihood.family"
WRITER = {"part": "writer/csv", "values": {"a": [1]}, "path": "stolen.csv", "schema": None, "names": None}
CONFIGS = {
    "format 3": (put("format", 3), "formats up to.*update ladle"),
    "format 0": (put("format", 0), "must be of format"),
    "format -1": (put("format", -1), "must be of format"),
    "format '1'": (put("format", "1"), "whole-number"),
    "format true": (put("format", True), "whole-number"),
    "format 1.5": (put("format", 1.5), "whole-number"),
    "format null": (put("format", None), "whole-number"),
    "no format": (drop("format"), "whole-number"),
    "no model": (drop("model"), "'schema' and 'model'"),
    "no schema": (drop("schema"), "'schema' and 'model'"),
    "model null": (put("model", None), "does not describe"),
    "model of numbers": (put("model", {"part": "model/vae", "latents": 1, "likelihood": 2}), "does not describe"),
    "model is a net": (put("model", {"part": "net/mlp", "inputs": [1]}), "model/vae"),
    "part a number": (put(f"{FAMILY}.part", 7), "a part of a model must be one of"),
    "unknown kind": (put(f"{FAMILY}.part", "os/system"), "a part of a model must be one of"),
    "unknown part": (put(f"{FAMILY}.part", "family/nothing"), "unknown family 'nothing'; known"),
    "unknown argument": (put(f"{FAMILY}.nothing", 1), "nothing"),
    "missing argument": (drop("model.latents"), "latents"),
    "a wrong type": (put(f"{ENCODER}.width", "wide"), "does not describe"),
    "a negative size": (put(f"{ENCODER}.width", -5), "does not describe"),
    "a function": (put(FAMILY, WRITER), "a part of a model must be one of"),
    "a data set": (put(FAMILY, {"part": "dataset/mnist"}), "a part of a model must be one of"),
    "nested families": (nested, "does not match config.json|does not describe"),
    "a huge width": (put(f"{ENCODER}.width", 10**12), "a size must be at most"),
    "an immense width": (put(f"{ENCODER}.width", 10**1000), "a size must be at most"),
    "a large width": (put(f"{ENCODER}.width", 10**6), "must be"),
    "a large prior": (put(f"{PRIOR}.width", 10**6), "must be"),
    "many components": (put(f"{PRIOR}.components", 10**7), "must be"),
    "a million layers": (put(f"{ENCODER}.depth", 10**6), "operations"),
    "an infinite unit": (put("model.latents.reads.scale", float("1e300")), "a unit must be at most"),
    "a schema that is a list": (put("schema", []), "schema must be"),
    "a schema's shape": (put("schema.shape", [1, 0, 8]), "shape must be"),
    "a schema's kind": (put("schema.kind", "table"), "shape must be"),
    "another shape": (put("schema.shape", [1, 4, 16]), "event is"),
    "another support": (put("schema.columns.0.kind", "binary"), "holds binary values"),
    "another event": (put("model.likelihood.event", [1, 8, 9]), "event is"),
    "another latent event": (put("model.latents.posterior.event", [4]), "does not describe"),
    "another prior event": (put(f"{PRIOR}.event", [4]), "does not describe"),
    "another input": (put(f"{ENCODER}.inputs", [3, 8, 8]), "does not describe"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(folder: Path, bounded: None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    change, told = CONFIGS[name]
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, told)
    assert os.listdir(folder.parent) == ["run"]


def test_specs_call_no_functions() -> None:
    for kind, things in parts().items():
        for name, thing in things.items():
            if not isinstance(thing, type):
                with pytest.raises(ladle.SpecError, match="function"):
                    build({"part": f"{kind}/{name}"})


# ------------------------------------------------------------------------------------------- model.safetensors


def lies(start: int, end: int) -> Callable[[bytes], bytes]:
    """Change the position of the first tensor in the header."""

    def change(content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        name = next(n for n in header if n != "__metadata__")
        header[name]["data_offsets"] = [start, end]
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]

    return change


WEIGHTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda c: b"", "truncated or not"),
    "garbage": (lambda c: bytes(range(256)) * 40, "truncated or not"),
    "cut": (lambda c: c[: len(c) // 2], "truncated or not"),
    "header alone": (lambda c: c[:300], "truncated or not"),
    "long": (lambda c: c + bytes(8), "truncated or not"),
    "a pickle": (lambda c: pickle.dumps(Mine()), "truncated or not"),
    "a header of 2**63 bytes": (lambda c: struct.pack("<Q", 2**63) + c[8:], "truncated or not"),
    "offsets beyond the file": (lies(0, 2**50), "truncated or not"),
    "offsets that overlap": (lies(4, 8), "truncated or not"),
    "a type that is none": (lambda c: c.replace(b'"F32"', b'"X32"', 1), "truncated or not"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_files_of_weights(folder: Path, bounded: None, name: str) -> None:
    change, told = WEIGHTS[name]
    path = folder / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    refused(folder, told)


def first(tensors: Tensors) -> str:
    return next(name for name in sorted(tensors) if name.endswith("head.weight"))


def spoil(value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[first(tensors)][0, 0] = value

    return change


def swap(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[first(tensors)] = make(tensors[first(tensors)])

    return change


def unmask(tensors: Tensors) -> None:
    name = next(n for n in tensors if n.endswith("last.mask"))
    tensors[name] = torch.ones_like(tensors[name])


TENSORS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "NaN": (spoil(float("nan")), "NaN or infinity"),
    "infinity": (spoil(float("inf")), "NaN or infinity"),
    "another shape": (swap(lambda t: t.T.contiguous()), "must be"),
    "another type": (swap(torch.Tensor.half), "must be torch.float32, got torch.float16"),
    "whole numbers": (swap(torch.Tensor.int), "must be torch.float32"),
    "one less": (lambda tensors: tensors.pop(first(tensors)), "missing"),
    "one more": (lambda tensors: tensors.update(extra=torch.zeros(1)), "unexpected.*extra"),
    "a mask that looks ahead": (unmask, "last.mask.*does not match config.json"),
    "other units": (
        lambda tensors: tensors.update({"latents.reads.scale": torch.tensor(0.5)}),
        "reads.scale.*does not match config.json",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(folder: Path, bounded: None, name: str) -> None:
    change, told = TENSORS[name]
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    refused(folder, told)


# ------------------------------------------------------------------------------------------------- the folder


def test_things_in_place_of_files(folder: Path, bounded: None, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no model folder")
    refused(folder / "config.json", "no model folder")
    for name in ("config.json", "model.safetensors"):
        kept = folder / f"kept-{name}"
        (folder / name).rename(kept)
        refused(folder, f"no {name}")
        (folder / name).mkdir()
        refused(folder, "must be a file")
        (folder / name).rmdir()
        os.mkfifo(folder / name)
        refused(folder, "must be a file")
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        refused(folder, "must be a file")
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name)
        refused(folder, rf"cannot be read|truncated|no {name}")
        (folder / name).unlink()
        (folder / name).symlink_to(kept)  # as the Hub's cache has it
        ladle.load(folder, "cpu")


def test_a_file_larger_than_memory(folder: Path, bounded: None) -> None:
    """A sparse file may be as large as it likes, and fit a config of the same size."""
    config = json.loads((folder / "config.json").read_text())
    config["model"]["latents"]["posterior"]["net"].update(width=1 << 20, depth=2)
    weights = skeleton(config, ladle.Schema.from_json(config["schema"])).state_dict()  # takes no memory
    header, end = {}, 0
    for name, tensor in weights.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    refused(folder, "must fit into memory|truncated or not")  # the second where the address space is limited


# ------------------------------------------------------------------------------------- the door is wide enough

ARGUMENTS = {
    "affine": {"family": {"part": "family/normal"}, "loc": [0.0], "scale": [1.0]},
    "categorical": {"classes": 256},
    "one_hot": {"classes": 4},
    "vq": {"classes": 4, "size": 2},
    "local_autoregressive": {"family": {"part": "family/bernoulli"}},
    "mixture": {"family": {"part": "family/normal"}, "components": 3},
    "columns": {
        "families": [{"part": "family/normal"}, {"part": "family/logistic"}],
        "groups": [[0, 1, 2], [3, 4, 5, 6, 7]],
    },
}
SCHEMAS = {
    "binary": ladle.Schema("image", (1, 4, 4), "binary"),
    "bytes": ladle.Schema("image", (1, 4, 4), "bytes"),
    "real": ladle.Schema("image", (1, 4, 4), [ladle.Column("real", loc=0.0, scale=1.0)]),
}


@pytest.mark.parametrize("name", sorted(parts()["family"]))
def test_every_family_passes_the_door(digits_run: Path, name: str) -> None:
    """As posterior with its standard and learned priors, and as likelihood where a schema has its support."""
    from ladle.recipes.assemble import column_fits

    config = json.loads((digits_run / "config.json").read_text())
    family = {"part": f"family/{name}", **ARGUMENTS.get(name, {})}
    tried, event, channels = 0, [8], 1
    if name == "colour_mixture":
        event, channels = [2, 2, 2], 2
    if name == "local_autoregressive":
        event = [1, 2, 4]
    for prior in (None, "standard", "learned"):
        spec = copy.deepcopy(config)
        latents = spec["model"]["latents"]
        latents["posterior"].update(family=family, event=event)
        latents["prior"] = prior and {"part": f"prior/{prior}", "family": family, "event": event}
        spec["model"]["likelihood"]["net"]["inputs"] = list(build(family).read_size(tuple(event)))
        if prior is None or name != "point_mass":
            skeleton(spec, ladle.Schema.from_json(spec["schema"]))
            tried += 1
    support = build(family).support
    held = next((kind for kind, schema in SCHEMAS.items() if column_fits(support, schema.columns[0])), None)
    if held is not None:
        spec = copy.deepcopy(config)
        spec["model"]["likelihood"].update(family=family, event=[channels, 4, 4])
        spec["model"]["latents"]["posterior"]["net"]["inputs"] = [channels, 4, 4]
        if name != "point_mass":
            skeleton(spec, replace(SCHEMAS[held], shape=(channels, 4, 4)))
            tried += 1
    assert tried


LADDERS = {
    "no string": ({"blocks": 7}, "does not describe"),
    "no such side": ({"blocks": "1, 3"}, "a side must be one of 8, 4, 2, 1"),
    "a million levels": ({"blocks": "1x999999"}, "at most 100 levels"),
    "a long string": ({"blocks": "1," * 10**6}, "at most 100 levels"),
    "another prior's event": ({"blocks": "1:7, 4"}, "does not describe"),
    "other items": ({"inputs": [1, 4, 4]}, "does not describe"),
    "no items": ({"inputs": [1, 0, 0]}, "does not describe"),
    "another map at the end": ({"blocks": "1:2, 4, 4, 8, 8"}, None),
    "many levels": ({"blocks": "1:2, 4x10, 8x20"}, None),
    "huge": ({"width": 1 << 24}, "does not describe"),
    "wide": ({"width": -3}, "at least 1"),
}


@pytest.mark.parametrize("name", LADDERS)
def test_ladders_from_strangers(toys: dict[str, ladle.Dataset], bounded: None, name: str) -> None:
    schema = toys["digits"].schema
    config = {"model": to_spec(ladle.assemble(schema, narrow("vdvae", schema)).model)}
    change, told = LADDERS[name]
    config["model"]["latents"].update(change)
    if told is None:
        skeleton(config, schema)
    else:
        with pytest.raises(ladle.ModelError, match=told) as caught:
            skeleton(config, schema)
        assert "\n" not in str(caught.value)

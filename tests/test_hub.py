"""A model that is pushed to the Hub and loaded again is unchanged; errors are reported in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ladle
from hub_stand_in import TOKEN, StandIn, running
from ladle.cli import main
from ladle.machine import MissingPackage
from ladle.store.hub import is_hub

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """The stand-in as the Hub of this process, with a token that has write access."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with running() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
        template = stand_in.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield stand_in


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return int(left.value.code or 0)


def put(hub: StandIn, run: Path, name: str = "someone/else", **changed: bytes) -> str:
    """Commit the model of a run to a repository, with the files of ``changed`` replaced."""
    files = {n: (run / n).read_bytes() for n in ("config.json", "model.safetensors")}
    return hub.commit(name, {**files, **{n.replace("__", "."): b for n, b in changed.items()}})


def test_push_and_load_in_a_new_process(
    hub: StandIn, digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    (run / "samples.png").write_bytes(b"a picture")
    (run / "report.html").write_text("a report")
    for extra in ("checkpoints/step-1/state.json", "tensorboard/events", "wandb/media/a.png", "loggers.json", ".env"):
        (run / extra).parent.mkdir(parents=True, exist_ok=True)
        (run / extra).write_text("{}")

    assert command("push", run, "someone/digits", "--private", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    sha, files = hub.at("someone/digits", "main")
    assert result == {"name": "hub:someone/digits", "commit": f"{hub.address}/someone/digits/commit/{sha}"}
    public = {"config.json", "model.safetensors", "log.jsonl", "README.md", "samples.png", "report.html"}
    assert set(files) == public
    assert all(files[name] == (run / name).read_bytes() for name in public)
    assert hub.private == {"someone/digits"}

    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(tmp_path / "other")}
    subprocess.run(
        [sys.executable, "-m", "ladle", "sample", "hub:someone/digits", tmp_path / "x.npy", "-n", "5", "--noise"],
        env=environment, check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    here = ladle.sample(ladle.load(run), 5, noise=True)
    assert (np.load(tmp_path / "x.npy") == here).all()
    assert here.any()
    fetched = {p.name for p in (tmp_path / "other").rglob("snapshots/*/*")}
    assert fetched == {"config.json", "model.safetensors"}, "nothing else is downloaded"


def test_pushing_again_adds_a_commit_and_keeps_the_first(hub: StandIn, digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    ladle.push(run, "someone/digits")
    old, _ = hub.at("someone/digits", "main")
    other = ladle.assemble(ladle.read("digits").schema, "vae", "xs")
    for _ in ladle.fit(other, ladle.read("digits"), epochs=0.3, run=run, force=True):
        pass
    address = ladle.push(run, "someone/digits")
    assert len(hub.commits["someone/digits"]) == 2
    assert address.endswith(hub.at("someone/digits", "main")[0])
    weights = [ladle.load(f"hub:someone/digits{at}").vae.state_dict() for at in ("", f"@{old}")]
    assert weights[0].keys() == other.model.state_dict().keys()
    assert weights[1].keys() == ladle.load(digits_run).vae.state_dict().keys() != weights[0].keys()


def test_a_cached_model_opens_without_the_hub(hub: StandIn, digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, digits_run)
    ladle.load("hub:someone/else")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    requests = len(hub.requests)
    assert (ladle.sample(ladle.load("hub:someone/else"), 2) == ladle.sample(ladle.load(digits_run), 2)).all()
    assert len(hub.requests) == requests
    with pytest.raises(ladle.ModelError, match="cannot be reached"):
        ladle.load("hub:someone/unknown")


def test_hostile_repositories(hub: StandIn, digits_run: Path, tmp_path: Path) -> None:
    weights = (digits_run / "model.safetensors").read_bytes()

    hub.commit("someone/weights", {"model.safetensors": weights})
    with pytest.raises(ladle.ModelError, match=r"no config\.json in 'hub:someone/weights'"):
        ladle.load("hub:someone/weights")
    put(hub, digits_run, "someone/fat", config__json=b" " * ((16 << 20) + 1))
    with pytest.raises(ladle.ModelError, match=r"config\.json must be at most 16,777,216 bytes"):
        ladle.load("hub:someone/fat")

    put(hub, digits_run, "someone/large")
    tensors = ladle.load(digits_run).vae.state_dict().values()
    least, most = sum(t.nbytes for t in tensors), sum(t.nbytes + 4096 for t in tensors) + 4096
    assert least < len(weights) < most
    hub.sizes["model.safetensors"] = most + 1
    with pytest.raises(ladle.ModelError, match=rf"at most {most:,} bytes, but the Hub lists {most + 1}"):
        ladle.load("hub:someone/large")
    assert not [a for a in hub.requests if "model.safetensors" in a], "a file that is too large is not requested"
    hub.sizes["model.safetensors"] = most
    put(hub, digits_run, "someone/short", model__safetensors=weights[:-100])
    with pytest.raises(ladle.ModelError, match="truncated"):
        ladle.load("hub:someone/short")
    hub.sizes.clear()
    ladle.load("hub:someone/large")

    config = json.loads((digits_run / "config.json").read_text())
    config["model"]["part"] = "model/elsewhere"
    put(hub, digits_run, "someone/code", config__json=json.dumps(config).encode())
    before = len([a for a in hub.requests if "model.safetensors" in a])
    with pytest.raises(ladle.ModelError, match="does not describe a model"):
        ladle.load("hub:someone/code")
    assert len([a for a in hub.requests if "model.safetensors" in a]) == before, "no weights without a valid config"


BAD = {
    "a name without a user": ("hub:name", "must be user/name"),
    "a path": ("hub:../../etc/passwd", "must be user/name"),
    "an address": ("hub:https://elsewhere/x", "must be user/name"),
    "no revision": ("hub:someone/else@", "must be a branch"),
    "an unknown repository": ("hub:someone/unknown", "no model 'hub:someone/unknown' on the Hub"),
    "an unknown revision": ("hub:someone/else@nowhere", "no such revision"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_names(
    hub: StandIn, digits_run: Path, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(hub, digits_run)
    name, message = BAD[what]
    assert command("sample", name, tmp_path / "x.npy") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("ladle: ")
    assert message in lines[-1]
    assert len(lines) == 1
    assert not (tmp_path / "x.npy").exists()


def test_without_a_token_or_write_access(
    hub: StandIn, digits_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_without_write_access")
    assert command("push", digits_run, "someone/digits") == 2
    assert "HF_TOKEN" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert command("push", digits_run, "someone/digits") == 2
    assert "HF_TOKEN" in capsys.readouterr().err
    assert not hub.commits
    put(hub, digits_run, "someone/secret")
    hub.private.add("someone/secret")
    with pytest.raises(ladle.ModelError, match="private"):
        ladle.load("hub:someone/secret")


def test_without_a_network(hub: StandIn, digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ladle.ModelError, match="cannot be reached for 'hub:someone/else'"):
        ladle.load("hub:someone/else")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ladle.ModelError, match="cannot be reached for 'someone/else'"):
        ladle.push(digits_run, "someone/else")


def test_only_complete_models_are_pushed(
    hub: StandIn, digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits_run, tmp_path / "run")
    (tmp_path / "run/model.safetensors").unlink()
    for run, message in ((tmp_path / "run", "training has not ended"), ("hub:someone/else", "a local folder")):
        assert command("push", run, "someone/digits") == 2
        assert message in capsys.readouterr().err
    assert not hub.commits


def test_fit_does_not_write_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("fit", "digits", "--out", "hub:someone/digits", "--epochs", 0.1) == 2
    assert "ladle push" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_the_package(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (lambda: ladle.load("hub:someone/else"), lambda: ladle.push(digits_run, "someone/else")):
        with pytest.raises(MissingPackage, match=r"pip install 'ladle\[hub\]'"):
            use()


def test_the_hub_can_parse_the_model_card(digits_run: Path, hub: StandIn) -> None:
    card = huggingface_hub.ModelCard.load(digits_run / "README.md")
    assert card.data.library_name == "ladle"
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert {"vae", "generative-model", "representation-learning"} <= set(card.data.tags)
    assert is_hub("hub:x/y")
    assert 'ladle.load("hub:' in card.content

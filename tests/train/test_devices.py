"""Two processes take the same steps as one; they stop together, and resume from the same checkpoint."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ladle
import ladle.training.distributed
import ladle.training.fit
from ladle.cli import launch as launching
from ladle.cli import main
from ladle.cli.launch import launch
from ladle.machine import choose
from ladle.objectives.elbo import Elbo
from ladle.training.distributed import check_devices
from toys import narrow, toy_data

RUN = {"recipe": "vae", "size": "xs", "estimator": "vi"}
EPOCHS, BATCH, STEPS = 2.0, 64, 8

# Cases that use the batch in different ways: closed forms, hooks, nonlinear functions of the mean, rejection sampling,
# no reparameterisation, masks.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "elbo": ("digits", "vae", {}),
    "binarised": ("grey", "learned_prior", {}),
    "missing": ("table", "vae", {}),
    "iwae": ("digits", "iwae_dreg", {}),
    "ladder": ("digits", "vdvae", {}),
    "free bits": ("digits", "vae", {"objective": {"part": "objective/elbo", "free_bits": 1.0}}),
    "geco": ("digits", "vae", {"objective": {"part": "objective/geco", "distortion": 150.0}}),
    "capacity": ("digits", "vae", {"objective": {"part": "objective/capacity", "nats": 1.0, "ramp": 0.0}}),
    "map": ("grey", "vae", {"objective": {"part": "objective/map", "objective": {"part": "objective/ml"}, "items": 9}}),
    "em": ("bits", "vae", {"objective": {"part": "objective/em", "particles": 4}}),
    "linear": ("table", "linear_vae", {"objective": {"part": "objective/ml"}}),
    "simplex": ("digits", "vae", {"posterior": "dirichlet", "prior": "dirichlet"}),
}


def assembled(case: str, data: ladle.Dataset) -> ladle.Assembly:
    _, recipe, changes = CASES[case]
    plan = narrow(recipe, data.schema)
    for name, family in changes.items():
        if name == "objective":
            plan[name] = family
        else:
            family = {"part": f"family/{family}"}
            plan["latents"][name] = family if name == "posterior" else {"part": "prior/standard", "family": family}
    assembly = ladle.assemble(data.schema, plan, seed=3)
    return assembly._replace(training=assembly.training._replace(batch=BATCH))


def trajectory(case: str, toys: dict[str, ladle.Dataset], devices: int) -> list[list[float]]:
    """The loss of every step, and the final norm of every tensor of the model and of the objective's state."""
    data = toys[CASES[case][0]]
    assembly = assembled(case, data)
    epochs = STEPS / (len(data.train) // BATCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ladle.training.distributed, "choose", lambda *arguments: choose(*arguments)._replace(precision="32-true")
        )
        patch.setattr(ladle.training.fit, "VALIDATIONS", 2)
        losses = [s.nats for s in ladle.fit(assembly, data, epochs=epochs, seed=3, device="cpu", devices=devices)]
    state = [*assembly.model.state_dict().values(), *assembly.objective.state_dict().values()]
    return [losses, [float(t.double().norm()) for t in state]]


class Planted(Elbo):
    """The bound, but NaN at one step on the second device only."""

    def forward(self, terms, progress):  # type: ignore[no-untyped-def]
        loss = super().forward(terms, progress)
        bad = progress.step == 3 and os.environ["RANK"] == "1"
        return loss._replace(scalar=loss.scalar * (math.nan if bad else 1.0))


def work(folder: Path) -> None:
    """The program of each of two processes. Results are written to ``folder``; at the end the second process dies."""
    toys, rank = toy_data(), os.environ["RANK"]
    seen: dict[str, Any] = {case: trajectory(case, toys, 2) for case in CASES}

    assembly = assembled("elbo", toys["digits"])
    *_, last = ladle.fit(assembly, toys["digits"], minutes=0.01, devices=2)
    seen["clock"] = [last.step, last.seconds, float(sum(p.double().sum() for p in assembly.model.parameters()))]

    assembly = assembled("elbo", toys["digits"])._replace(objective=Planted())
    steps = list(ladle.fit(assembly, toys["digits"], epochs=0.4, devices=2))
    seen["broken"] = [s.message for s in steps if s.kind == "note"]
    (folder / f"{rank}.json").write_text(json.dumps(seen))

    for _ in run(folder / "whole", toys["digits"]):
        pass
    steps_ = run(folder / "parts", toys["digits"])
    for step in steps_:
        if step.step == 7 and rank == "0":  # the first process stops, and stops the other one
            steps_.close()
            break
    ladle.training.fit.CHECKPOINT_SECONDS = 0.0
    for step in run(folder / "parts", toys["digits"]):
        if step.step == 15 and rank == "1":
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, data: ladle.Dataset):  # type: ignore[no-untyped-def]
    """The run that the command line resumes later."""
    assembly = ladle.assemble(data.schema, RUN["recipe"], RUN["size"], seed=0)
    return ladle.fit(assembly, data, epochs=EPOCHS, device="cpu", devices=2, run=folder, resume=True, settings=RUN)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, float]:
    """Run two processes: their folder, the exit status, and the time that the rest took after one had died."""
    folder, here = tmp_path_factory.mktemp("two"), Path(__file__).parent
    code = (
        f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]; "
        "from pathlib import Path; from test_devices import work; work(Path(sys.argv[1]))"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "COMMAND", code)
        patch.setenv("OMP_NUM_THREADS", "1")
        status = launch([str(folder)], 2)
    last = max(p.stat().st_mtime for p in (folder / "parts").rglob("*"))
    return folder, status, time.time() - last


def seen(two: tuple[Path, int, float], rank: int) -> dict[str, Any]:
    return json.loads((two[0] / f"{rank}.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(
    case: str, two: tuple[Path, int, float], toys: dict[str, ladle.Dataset]
) -> None:
    alone, first, second = trajectory(case, toys, 1), seen(two, 0)[case], seen(two, 1)[case]
    assert first == second  # to the bit
    for a, b in zip(alone, first, strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-6, atol=1e-6)


def test_the_clock_of_the_first_process_stops_all_at_the_same_step(two: tuple[Path, int, float]) -> None:
    (step, seconds, _), _ = first, second = seen(two, 0)["clock"], seen(two, 1)["clock"]
    assert first == second
    assert step > 5
    assert 0.6 <= seconds < 5.0


def test_a_gradient_that_is_not_finite_on_one_device_is_applied_on_none(two: tuple[Path, int, float]) -> None:
    (note,), (other,) = seen(two, 0)["broken"], seen(two, 1)["broken"]
    assert note == other
    assert note.startswith("step 4: the gradient of ")
    assert "rolled back" in note


def test_a_killed_process_ends_the_run_and_resuming_is_bit_identical(
    two: tuple[Path, int, float], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, status, waited = two
    assert status == 1
    assert waited < launching.GRACE + 2.0
    assert not (folder / "parts" / "model.safetensors").exists()
    assert len(list((folder / "parts" / "checkpoints").glob("step-*"))) == 1

    # by the command itself, without images and report
    code = (
        "import ladle; from ladle.reporting import pictures; pictures.draw = ladle.report = lambda *a, **k: None; "
        "from ladle.cli import main; main()"
    )
    monkeypatch.setattr(launching, "COMMAND", code)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    arguments = ["fit", "digits", "--out", str(folder / "parts"), "--recipe", "vae", "--size", "xs", "--resume"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--epochs", str(EPOCHS), "--device", "cpu", "--devices", "2", "--json"])
    out, err = capfd.readouterr()
    assert left.value.code == 0, err
    assert json.loads(out)["steps"] == 22  # the second process has printed nothing
    assert err.count("training for") == 1
    whole, parts = (load_file(folder / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all((whole[name] == parts[name]).all() for name in whole)
    assert json.loads((folder / "parts" / "config.json").read_text())["result"]["devices"] == 2


def test_the_process_that_failed_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The processes are stand-ins that end in various ways."""
    monkeypatch.setattr(launching, "GRACE", 1.0)

    def ends(first: str, second: str) -> tuple[int, str]:
        fail = "lambda message: print('ladle: ' + message, file=sys.stderr)"
        code = f"import os, sys, time; r = os.environ['RANK']; fail = {fail}; "
        monkeypatch.setattr(launching, "COMMAND", code + f"exec({first!r} if r == '0' else {second!r})")
        return launch([], 2), capfd.readouterr().err

    kill, stay, bad = "os.kill(os.getpid(), 9)", "time.sleep(60)", "fail('no such data'); sys.exit(2)"
    started = time.perf_counter()
    assert ends("pass", "pass") == (0, "")
    assert ends(bad, bad) == (2, "ladle: no such data\n")
    assert ends("time.sleep(0.3);" + bad, bad) == (2, "ladle: no such data\n")
    status, message = ends(stay, kill)
    assert (status, message) == (
        1,
        "ladle: process 2 of 2 was killed (SIGKILL); --resume continues from the last checkpoint\n",
    )
    status, message = ends(stay, "fail('out of memory'); sys.exit(1)")
    assert status == 1
    assert "process 2 of 2 failed (out of memory)" in message
    status, message = ends(kill, stay)
    assert status == 1
    assert "process 1 of 2 was killed (SIGKILL)" in message
    lost = "fail('another process of this run has ended'); sys.exit(1)"
    assert ends("fail('no space left'); sys.exit(1)", lost) == (1, "ladle: no space left\n")
    status, message = ends(lost, kill)
    assert status == 1
    assert message.splitlines()[1].startswith("ladle: process 2 of 2 was killed (SIGKILL)")
    assert ends("sys.exit(143)", stay) == (143, "")
    assert time.perf_counter() - started < 20.0


def test_a_signal_is_forwarded_to_the_first_process_only(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C reaches the launcher; the first process exits as a single process does, and the launcher with it."""
    code = (
        "import os, signal, sys, time\n"
        "if os.environ['RANK'] == '0':\n"
        "    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(launching, "COMMAND", code)
    started = time.perf_counter()
    assert launch([], 2) == 130
    assert time.perf_counter() - started < 10.0
    assert capfd.readouterr().err == ""


def test_the_number_of_devices_must_divide_the_batch(toys: dict[str, ladle.Dataset]) -> None:
    data = toys["digits"]
    assembly = ladle.assemble(data.schema, "vae", "xs")
    with pytest.raises(ladle.MachineError, match="the batch of 128 items into equal parts, got 3; use 2 or 4"):
        ladle.fit(assembly, data, epochs=1, devices=3)
    few = ladle.read(data.train.x[:60])
    items = len(few.train)
    with pytest.raises(ladle.MachineError, match=f"all {items} training items into equal parts, got 1000; use {items}"):
        ladle.fit(assembly, few, epochs=1, devices=1000)
    with pytest.raises(ladle.MachineError, match="got 0; use 1"):
        ladle.fit(assembly, data, epochs=1, devices=0)
    check_devices(4, 128, 1437)


def test_processes_must_have_been_started(toys: dict[str, ladle.Dataset]) -> None:
    assembly = ladle.assemble(toys["digits"].schema, "vae", "xs")
    with pytest.raises(ladle.MachineError, match="1 was started; start a script with `torchrun --nproc-per-node 2`"):
        ladle.fit(assembly, toys["digits"], epochs=1, device="cpu", devices=2)


def test_missing_gpus_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*options: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["fit", "digits", "--out", str(tmp_path / "run"), *options])
        assert left.value.code == 2
        return capsys.readouterr().err

    assert "at least 1, got 0" in refused("--devices", "0")
    for count, message in ((0, "torch finds none; use --device cpu"), (2, "torch finds 2; use --devices 2 or")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=count: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert message in refused("--device", "cuda", "--devices", "4")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--devices must be 2, got 4" in refused("--device", "cpu", "--devices", "4")
    assert not (tmp_path / "run").exists()

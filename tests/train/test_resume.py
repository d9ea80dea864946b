"""A run that is killed and resumed is bit-identical to one that is not interrupted."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

import ladle
from ladle.store.checkpoints import Checkpoints

TIMINGS = ("seconds", "left_s", "items_per_s")


def log_of(run: Path) -> list[dict]:
    """The records of a log, without their timings."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in records]


def same_bits(a: Path, b: Path) -> None:
    left, right = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert left.keys() == right.keys()
    assert all((left[name] == right[name]).all() for name in left)
    assert log_of(a) == log_of(b)


def start(run: Path, data: ladle.Dataset, recipe: str = "learned_prior", **options):  # type: ignore[no-untyped-def]
    assembly = ladle.assemble(data.schema, recipe, "xs", seed=5)
    return ladle.fit(assembly, data, epochs=12, seed=5, run=run, resume=True, **options)


@pytest.fixture(scope="module")
def digits() -> ladle.Dataset:
    return ladle.read("digits")


@pytest.mark.parametrize(
    "recipe", ["learned_prior", "lvae", *(pytest.param(name, marks=pytest.mark.slow) for name in ("iwae_dreg", "ae"))]
)
def test_closing_the_generator_saves_a_checkpoint_that_is_resumed(
    tmp_path: Path, digits: ladle.Dataset, recipe: str
) -> None:
    for _ in start(tmp_path / "whole", digits, recipe):
        pass
    for stop in (1, 17, 30, 41):  # steps at which the run is interrupted; 12 epochs are 60 steps
        steps = start(tmp_path / "parts", digits, recipe)
        for step in steps:
            if step.step >= stop:
                steps.close()
                break
    before = load_file(next((tmp_path / "parts" / "checkpoints").glob("*/state.safetensors")))
    assert any(name.startswith("moment.") for name in before)
    for _ in start(tmp_path / "parts", digits, recipe):
        pass
    same_bits(tmp_path / "whole", tmp_path / "parts")
    assert not (tmp_path / "parts" / "checkpoints").exists()


def test_a_resumed_run_restores_the_complete_state(tmp_path: Path, digits: ladle.Dataset) -> None:
    """The last checkpoint of an interrupted run is bit-identical to that of a run stopped there for the first time."""
    for name, stops in (("once", [40]), ("thrice", [7, 23, 40])):
        for stop in stops:
            steps = start(tmp_path / name, digits)
            next(s for s in steps if s.step >= stop)
            steps.close()
    (a, left), (b, right) = (Checkpoints(tmp_path / name).latest() for name in ("once", "thrice"))
    assert a.keys() == b.keys()
    assert all((a[name] == b[name]).all() for name in a)
    untimed = [{k: v for k, v in s.items() if k not in ("seconds", "log_bytes")} for s in (left, right)]
    assert untimed[0] == untimed[1]
    assert {"model.", "average.", "moment."} <= {name[: name.index(".") + 1] for name in a}


def test_finished_runs_are_not_changed(tmp_path: Path, digits: ladle.Dataset) -> None:
    for _ in start(tmp_path / "run", digits):
        pass
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert list(start(tmp_path / "run", digits)) == []
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_is_resumed_only_with_the_same_settings(tmp_path: Path, digits: ladle.Dataset) -> None:
    steps = start(tmp_path / "run", digits)
    next(steps)
    steps.close()
    with pytest.raises(ladle.ModelError, match="other settings"):
        start(tmp_path / "run", digits, "vae")
    assembly = ladle.assemble(digits.schema, "learned_prior", "xs")
    with pytest.raises(ladle.ModelError, match="--resume"):
        ladle.fit(assembly, digits, epochs=12, run=tmp_path / "run")


def test_minutes_add_up_across_interruptions(tmp_path: Path, digits: ladle.Dataset) -> None:
    def resume():  # type: ignore[no-untyped-def]
        assembly = ladle.assemble(digits.schema, "vae", "xs")
        return ladle.fit(assembly, digits, minutes=0.05, run=tmp_path / "run", resume=True)

    steps = resume()
    left = next(s for s in steps if s.seconds > 1.0)
    steps.close()
    started = time.perf_counter()
    *_, last = resume()
    assert time.perf_counter() - started < 3.0
    assert last.step > left.step
    assert 3.0 <= last.seconds < 3.6


@pytest.mark.timeout(900)  # the processes run one after the other
@pytest.mark.parametrize("kills", [(2, 5, 9), pytest.param(range(1, 11), marks=pytest.mark.slow)], ids=["3", "10"])
def test_killed_runs_are_bit_identical(tmp_path: Path, kills: Sequence[int]) -> None:
    """``kill -9`` at points spread over a run of 220 steps, with a checkpoint every 50 milliseconds."""
    code = (
        "import sys, ladle, ladle.training.fit\n"
        "ladle.training.fit.CHECKPOINT_SECONDS = 0.05\n"
        "data = ladle.read('digits')\n"
        "assembly = ladle.assemble(data.schema, 'learned_prior', 'xs', seed=5)\n"
        "for s in ladle.fit(assembly, data, epochs=20, seed=5, run=sys.argv[1], resume=True):\n"
        "    print(s.step, s.kind, flush=True)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def launch(run: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True, env=environment
        )

    whole = launch(tmp_path / "whole")
    assert whole.communicate()[0].splitlines()[-1].endswith("done")
    resumed_from = []
    for kill in kills:
        process = launch(tmp_path / "killed")
        assert process.stdout is not None
        first = None
        for line in process.stdout:
            step = line.split()[0]
            first = first or int(step)
            if int(step) >= kill * 20:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
        process.stdout.close()
        resumed_from.append(first)
        assert not (tmp_path / "killed" / "model.safetensors").exists()
    last = launch(tmp_path / "killed")
    assert last.communicate()[0].splitlines()[-1].endswith("done")
    used = sum(b > a for a, b in itertools.pairwise(resumed_from))
    assert used >= len(kills) // 2, resumed_from  # checkpoints were used
    same_bits(tmp_path / "whole", tmp_path / "killed")

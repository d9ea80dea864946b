"""Models in whole numbers: items decode on any machine, and their size is that of the bound."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import ladle
from coding_plans import PLANS
from ladle.coding.ans import bins, loops_numpy, streams
from ladle.coding.bits_back import BitsBack, groups
from ladle.coding.model_file import fingerprint, load_integer_model, save_integer_model
from ladle.coding.random_access import COARSER, Quantisation, RandomAccess, choose_quantisation, psnr
from ladle.data import Batch
from ladle.tasks.compress import integer_model

ITEMS = 300
SLOW = ("vampprior", "logistic", "sigma_vae", "vq", "colour", "local bits", "local colour")
EVERY = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PLANS]


def bound(folder, x) -> float:
    """The bits of an item by the float model: the mean of the bound over 20 samples."""
    model = ladle.load(folder, "cpu")
    batch = Batch(torch.from_numpy(x).float(), None, {}, torch.arange(len(x)))
    with torch.no_grad(), ladle.seeds.seeded(1):
        terms = model.vae(batch, samples=(20,))
    return -float((terms.log_px - terms.kl).mean()) / np.log(2)


@pytest.mark.parametrize("name", EVERY)
def test_items_come_back_at_the_price_of_the_bound(coding_runs, name):
    """Within 2 % of the float model's bound, plus the initial bits that the first item borrows."""
    folder, data = coding_runs(name)
    x = data[-ITEMS:].astype(np.int64)
    model = integer_model(folder)
    payload = BitsBack(model).encode(x)
    assert (BitsBack(model).decode(payload, len(x)) == x).all()
    borrowed = 12 * model.latents + 64 * 4
    expected = bound(folder, data[-ITEMS:])
    assert 8 * len(payload) < 1.02 * expected * len(x) + borrowed
    assert 8 * len(payload) > 0.98 * expected * len(x)


@pytest.mark.parametrize("name", ["learned_prior", "colour ladder"])
def test_nothing_but_the_items_matters(coding_runs, name):
    """The batch size of the networks, the number of threads and the inner loops do not change the bytes."""
    folder, data = coding_runs(name)
    x = data[:30].astype(np.int64)
    model = integer_model(folder)
    payload = BitsBack(model).encode(x)
    threads = torch.get_num_threads()
    try:
        for batch, count, numpy in ((1, 1, False), (7, 2, True), (512, 2, False)):
            model.batch = batch
            torch.set_num_threads(count)
            assert BitsBack(model, numpy).encode(x) == payload
            assert (BitsBack(model, numpy).decode(payload, len(x)) == x).all()
    finally:
        torch.set_num_threads(threads)


OTHER = """
import sys, numpy as np, torch
from pathlib import Path
from ladle.coding.bits_back import BitsBack
from ladle.coding.model_file import load_integer_model
torch.set_num_threads(1)
model = load_integer_model(Path(sys.argv[1]) / "exact.safetensors")
x = np.load(sys.argv[2])
payload = open(sys.argv[3], "rb").read()
assert (BitsBack(model).decode(payload, len(x)) == x).all()
assert BitsBack(model).encode(x) == payload
"""


@pytest.mark.parametrize("name", ["learned_prior", "colour ladder"])
def test_an_older_processor_makes_the_same_bits(coding_runs, name, tmp_path):
    """Emulated by limiting the libraries to SSE, where the bits of the float model differ."""
    folder, data = coding_runs(name)
    x = data[:20].astype(np.int64)
    payload = BitsBack(integer_model(folder)).encode(x)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "payload").write_bytes(payload)
    old = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    command = [sys.executable, "-c", OTHER, str(folder), str(tmp_path / "x.npy"), str(tmp_path / "payload")]
    done = subprocess.run(command, env={**os.environ, **old}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_stored_is_what_was_made(coding_runs, tmp_path):
    folder, data = coding_runs("learned_prior")
    model = integer_model(folder)
    save_integer_model(model, tmp_path / "again.safetensors")
    loaded = load_integer_model(tmp_path / "again.safetensors")
    assert fingerprint(loaded) == fingerprint(model)
    assert (tmp_path / "again.safetensors").read_bytes() == (folder / "exact.safetensors").read_bytes()
    x = data[:20].astype(np.int64)
    assert BitsBack(loaded).encode(x) == BitsBack(model).encode(x)


def test_groups_take_every_item_once():
    for n in (1, 2, 77, 1000):
        for growth in (0, 40, 5000):
            numbers = [i for group in groups(n, growth, (1, 28, 28)) for i in range(group.start, group.stop)]
            assert numbers == list(range(n))


def test_a_machine_that_computes_something_else_is_found(coding_runs, tmp_path, monkeypatch):
    folder, _ = coding_runs("grey")
    integer_model(folder)
    before = torch.nn.functional.linear

    def wrong(x, weight, bias=None):  # type: ignore[no-untyped-def]
        y = before(x, weight, bias)
        return y + (y.abs() > 1e5) * 1000.0

    monkeypatch.setattr(torch.nn.functional, "linear", wrong)
    with pytest.raises(ladle.CodingError, match="must be"):
        load_integer_model(folder / "exact.safetensors")


@pytest.mark.parametrize("name", EVERY)
def test_every_item_can_be_read_alone(coding_runs, name):
    """Without bits back: items from the middle, and the size compared with bits back."""
    folder, data = coding_runs(name)
    x = data[-40:].astype(np.int64)
    model = integer_model(folder)
    settings = choose_quantisation(model, x, None, 255)
    codec = RandomAccess(model, settings)
    payload = codec.encode(x)
    assert (codec.decode(payload, len(x)) == x).all()
    assert (codec.decode(payload, len(x), slice(17, 19)) == x[17:19]).all()
    assert len(payload) < 2 * len(BitsBack(model).encode(x)) + 6 * len(x)
    with pytest.raises(ladle.CodingError):
        codec.decode(payload[:-1], len(x))


@pytest.mark.parametrize(
    "name", ["grey", "learned_prior", "colour", pytest.param("local colour", marks=pytest.mark.slow)]
)
def test_loss_keeps_the_quality_that_was_asked_for(coding_runs, name):
    folder, data = coding_runs(name)
    x = data[-40:].astype(np.int64)
    model = integer_model(folder)
    sizes = []
    for quality in (40, 30, 20):
        codec = RandomAccess(model, choose_quantisation(model, x, quality, 255))
        payload = codec.encode(x)
        kept = codec.decode(payload, len(x))
        assert (kept == codec.reconstruct(x)).all()
        assert quality <= psnr(x, kept, 255) < quality + 12
        sizes.append(len(payload))
    assert sizes[0] > sizes[1] > sizes[2]


def test_pixels_that_follow_others_are_coded_with_wider_curves_when_those_have_lost_something(coding_runs):
    """Then files are smaller and the decoded items are closer."""
    folder, data = coding_runs("local colour")
    x, model = data[:40].astype(np.int64), integer_model(folder)
    found = []
    for sharpest in (model.likelihood.sharpest(96), 0):
        codec = RandomAccess(model, Quantisation(4, 96, sharpest))
        payload = codec.encode(x)
        kept = codec.decode(payload, len(x))
        assert (kept == codec.reconstruct(x)).all()
        found.append((len(payload), psnr(x, kept, 255)))
    (size, near), (size_before, near_before) = found
    assert size < 0.97 * size_before
    assert near > near_before
    assert model.likelihood.sharpest(1) == 0


@pytest.mark.parametrize("coarser", COARSER)
def test_places_can_be_as_coarse_as_one(coding_runs, monkeypatch, coarser):
    """Then a level of a ladder has a single bin, and both versions of the loops make the same bytes."""
    folder, data = coding_runs("local colour")
    x, codec = data[:8].astype(np.int64), RandomAccess(integer_model(folder), Quantisation(coarser, 1))
    payload = codec.encode(x)
    assert (codec.decode(payload, len(x)) == x).all()
    for module in (bins, streams):
        monkeypatch.setattr(module, "loops", lambda: loops_numpy)
    assert codec.encode(x) == payload
    assert (codec.decode(payload, len(x)) == x).all()

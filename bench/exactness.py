"""Exactness: a test set is compressed in one configuration and decompressed in every other.

    python bench/exactness.py RUN DATA [--items 10000] [--python OTHER/bin/python ...]

The configurations are batches of 1, 7 and 512 items, 1 and 2 threads, processors of three generations (emulated by
settings of ATen, oneDNN and MKL), NumPy instead of numba, and other interpreters with other versions of torch. Each
configuration compresses the items, and decompresses the files of all configurations before it; the table counts the
items that differ. The last column is for the float model: the share of its outputs that differ, in the last bits, from
those of the first configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

OLD = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
MIDDLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
WORK = """
import hashlib, json, sys
from pathlib import Path
import numpy as np, torch
from ladle.coding.bits_back import BitsBack
from ladle.coding.model_file import load_integer_model
import ladle
run, x, folder, name, batch, threads, numpy = json.loads(sys.argv[1])
torch.set_num_threads(threads)
model = load_integer_model(Path(run) / "exact.safetensors")
model.batch = batch
x = np.load(x).astype(np.int64)
codec = BitsBack(model, numpy)
mine = codec.encode(x)
(Path(folder) / f"{name}.mine").write_bytes(mine)

def count_wrong(payload):
    try:
        return int((codec.decode(payload, len(x)) != x).reshape(len(x), -1).any(1).sum())
    except ladle.CodingError:
        return len(x)

wrong = {name: count_wrong(mine)}
for other in sorted(Path(folder).glob("*.mine")):
    payload = other.read_bytes()  # identical bytes are decoded once
    wrong[other.stem] = wrong[name] if payload == mine else count_wrong(payload)
vae = ladle.load(run, "cpu").vae
with torch.inference_mode():
    parts = [vae.latents.walk(lambda level, q, p: (q or p).mean, ladle.data.Batch(b, None, {}, None)).h
             for b in torch.from_numpy(x[:1000]).float().split(batch)]
    outputs = torch.cat([vae.likelihood.raw(h)[0] for h in parts])
np.save(Path(folder) / f"{name}.npy", outputs.numpy())
print(json.dumps({"bytes": hashlib.sha256(mine).hexdigest()[:12], "wrong": wrong, "torch": torch.__version__}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--python", nargs="*", default=[])
    options = parser.parse_args()
    import numpy as np

    import ladle
    from ladle.tasks.common import explained, items
    from ladle.tasks.compress import integer_model

    integer_model(options.run)
    model = ladle.load(options.run, "cpu")
    x = explained(model, items(model, options.data))[: options.items].astype(np.uint8)
    configurations: list[tuple[str, int, int, bool, dict[str, str], str]] = [
        ("batch 512", 512, 1, False, {}, sys.executable),
        ("batch 1", 1, 1, False, {}, sys.executable),
        ("batch 7, 2 threads", 7, 2, False, {}, sys.executable),
        ("NumPy's coder", 512, 1, True, {}, sys.executable),
        ("AVX2", 512, 1, False, MIDDLE, sys.executable),
        ("SSE4, 2 threads", 512, 2, False, OLD, sys.executable),
        *((f"other {i}", 512, 1, False, {}, python) for i, python in enumerate(options.python)),
    ]
    print(f"{len(x):,} items of {options.data}")
    print("| configuration | torch | bytes | items wrong, of files of all before | float outputs that differ |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", x)
        first = None
        for name, batch, threads, numpy, environment, python in configurations:
            settings = json.dumps([options.run, f"{folder}/x.npy", folder, name, batch, threads, numpy])
            done = subprocess.run([python, "-c", WORK, settings], env={**os.environ, **environment},
                                  capture_output=True, text=True, check=False)  # fmt: skip
            if done.returncode:
                print(f"| {name} | | | failed: {done.stderr.splitlines()[-1][:200]} | |", flush=True)
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            outputs = np.load(Path(folder) / f"{name}.npy")
            first = outputs if first is None else first
            share = float((outputs != first).mean())
            print(f"| {name} | {result['torch']} | {result['bytes']} | {sum(result['wrong'].values())} | {share:.1%} |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

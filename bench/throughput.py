"""Training items per second, compared with pythae 0.1.2 on the same networks, data, batch size and machine.

    python bench/throughput.py [--threads 2] [--repeats 3]

pythae is installed into a separate environment (``bench/.envs/pythae``) and used as described in its README, with its
default batch size of 64 and, for the small network, with Ladle's default of 128. The two are measured alternately, so
that a change in the speed of the machine affects both. The script prints the medians, their ratio and the ratio of
every pair.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from datetime import date
from pathlib import Path

import numpy as np

import ladle
from ladle.machine import cores, processor

HERE = Path(__file__).parent
PEER = HERE / ".envs" / "pythae"
# the requirements of pythae 0.1.2, and the version of torch that Ladle is measured with
REQUIREMENTS = ["torch==2.13.0", "pythae==0.1.2", "pydantic", "numpy"]
CASES = [("mlp", 64), ("mlp", 128), ("resnet", 64)]
ITEMS = {"mlp": 12_800, "resnet": 640}
EPOCHS = 3


def peer_python() -> Path:
    """The interpreter of pythae's environment, which is created at the first call."""
    python = PEER / "bin" / "python"
    if not (PEER / ".ready").exists():
        print("installing pythae 0.1.2 into a separate environment", file=sys.stderr)
        venv.create(PEER, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)
        (PEER / ".ready").touch()
    return python


def measure(python: Path | str, script: str, *arguments: object) -> dict:
    """Run the script of one library: the number of parameters, and the items per second."""
    command = [str(python), str(HERE / script), *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def images(n: int, path: str) -> None:
    """Write ``n`` bundled images, thresholded: ``(n, 1, 28, 28)`` with values 0 and 1."""
    x = ladle.read("fashion-mnist-mini").train.x
    np.save(path, (np.resize(x, (n, *x.shape[1:])) >= 128).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    python = peer_python()
    print(f"{date.today()}  {processor()}, {arguments.threads} threads, Python {platform.python_version()}")
    print("load before:", " ".join(f"{v:.2f}" for v in os.getloadavg()))
    print(f"{'net':8} {'batch':>5} {'parameters':>11} {'pythae/s':>10} {'ladle/s':>10} {'ratio':>6}  pairs")
    with tempfile.TemporaryDirectory() as folder:
        for kind, batch in CASES:
            path = f"{folder}/{kind}.npy"
            images(ITEMS[kind], path)
            settings = (kind, path, EPOCHS, batch, arguments.threads)
            pairs = [
                (measure(python, "peer_pythae.py", *settings), measure(sys.executable, "peer_ladle.py", *settings))
                for _ in range(arguments.repeats)
            ]
            counts = {side["parameters"] for pair in pairs for side in pair}
            if len(counts) != 1:
                raise SystemExit(f"the networks differ: {counts} parameters")
            speeds = [[statistics.median(side["items_per_s"]) for side in pair] for pair in pairs]
            peer, ours = (statistics.median(column) for column in zip(*speeds, strict=True))
            ratios = " ".join(f"{b / a:.2f}" for a, b in speeds)
            print(
                f"{kind:8} {batch:5} {counts.pop():11,} {peer:10,.0f} {ours:10,.0f} {ours / peer:6.2f}  {ratios}",
                flush=True,
            )


if __name__ == "__main__":
    main()

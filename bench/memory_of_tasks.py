"""Peak memory of the commands that apply a model, for two numbers of items.

    python bench/memory_of_tasks.py --items 20000 200000 --verbs encode.npy reconstruct.npy --threads 1

Two .npy files of 28 x 28 8-bit images are made in a temporary folder, a model of size xs is trained on some of them
(or taken from --model), and every command runs in a process of its own. A verb is written with the suffix of its
output. Columns, in MB:

    peak   peak resident memory (ru_maxrss), which counts mapped pages of the input and of libraries
    anon   peak anonymous memory (RssAnon, sampled every 10 ms): the memory that the process itself has allocated
    ratio  the figure of the larger number of items over that of the smaller

To measure another version of the code, give the folder with its packages: --source OTHER/src.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

COMMAND = "import ladle_command; ladle_command.main()"
SOURCE = Path(__file__).parents[1] / "src"


def images(path: Path, n: int) -> None:
    """Write ``n`` images of a blob each, a block at a time."""
    rng = np.random.default_rng(0)
    grid = np.arange(28, dtype=np.float32)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, 28, 28)})
        for start in range(0, n, 1000):
            at = rng.uniform(6, 22, (2, min(1000, n - start), 1)).astype(np.float32)
            y, x = np.exp(-np.square(grid - at) / 18)
            file.write((255 * y[:, :, None] * x[:, None, :]).astype(np.uint8).tobytes())


def run(arguments: list[str], source: Path, threads: int) -> tuple[float, float, float]:
    """The peak resident and anonymous memory of a command in MB, and its seconds."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)}
    started = time.monotonic()
    cores = sorted(os.sched_getaffinity(0))[:threads]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),  # the command uses as many threads as it has cores
    )
    anonymous = [0]
    watcher = threading.Thread(target=watch, args=(process.pid, anonymous), daemon=True)
    watcher.start()
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)}: {text}")
    return usage.ru_maxrss * 1024 / 1e6, anonymous[0] * 1024 / 1e6, time.monotonic() - started


def watch(pid: int, most: list[int]) -> None:
    """Keep the largest RssAnon of a process, in kB, until it ends."""
    try:
        while True:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            here = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
            if not here:
                return
            most[0] = max(most[0], *here)
            time.sleep(0.01)
    except (FileNotFoundError, ProcessLookupError):
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--verbs", nargs="+", default=["encode.npy", "encode.parquet", "reconstruct.npy"])
    parser.add_argument("--samples", type=int, default=2, help="of score and evidence")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", help="a model of 28 x 28 8-bit images [default: train one for a moment]")
    parser.add_argument("--source", type=Path, default=SOURCE, help="the folder with ladle and ladle_command")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {n: folder / f"{n}.npy" for n in arguments.items}
        for n, path in files.items():
            images(path, n)
        model = arguments.model
        if model is None:
            model = str(folder / "run")
            images(folder / "train.npy", 2000)
            fit = ["fit", str(folder / "train.npy"), "--out", model, "--size", "xs", "--epochs", "1"]
            run(fit, arguments.source, arguments.threads)
        print(f"{'verb':20} {'items':>10} {'peak':>7} {'ratio':>6} {'anon':>7} {'ratio':>6} {'seconds':>8}")
        for verb in arguments.verbs:
            command, _, suffix = verb.partition(".")
            first: tuple[float, float] | None = None
            for n, path in files.items():
                out = folder / f"out{'.' if suffix else ''}{suffix}"
                call = [command, model, str(path)]
                if command == "decode":
                    run(["encode", model, str(path), str(folder / "z.npy"), "--force"], arguments.source, 1)
                    call = [command, model, str(folder / "z.npy")]
                elif command == "decompress":
                    file = str(folder / "x.ladle")
                    run(["compress", model, str(path), file, "--force"], arguments.source, arguments.threads)
                    call = [command, file, str(out), "--model", model, "--force"]
                elif command == "sample":
                    call = [command, model, "-n", str(n)]
                elif command == "interpolate":
                    call = [command, model, str(path), str(path), "--steps", "4"]
                if command not in ("decompress", "evidence"):
                    call += [str(out), "--force"]
                if command in ("score", "evidence"):
                    call += ["--samples", str(arguments.samples)]
                peak, anonymous, seconds = run(call, arguments.source, arguments.threads)
                first = first or (peak, anonymous)
                print(
                    f"{verb:20} {n:10,} {peak:7,.0f} {peak / first[0]:6.2f} {anonymous:7,.0f} "
                    f"{anonymous / first[1]:6.2f} {seconds:8.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

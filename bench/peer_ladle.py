"""Train the same networks with Ladle. ``throughput.py`` runs this script.

    python peer_ladle.py KIND IMAGES.npy EPOCHS BATCH THREADS

It prints the training items per second of every epoch except the first, as JSON.
"""

import itertools
import json
import sys
import time

import numpy as np

from ladle_command import prepare

prepare()  # as the ``ladle`` command does, before torch is imported

import torch  # noqa: E402

import ladle  # noqa: E402

NETS = {
    "mlp": ({"part": "net/mlp", "width": 512}, {"part": "net/mlp", "width": 512}),
    "resnet": ({"part": "net/conv_down", "width": 32, "blocks": 1}, {"part": "net/conv_up", "width": 32, "blocks": 1}),
}


RUN = 100  # epochs, pythae's default, so that validation and averaging are as frequent as in a full training run


def main(kind, images, epochs, batch, threads):
    torch.set_num_threads(int(threads))
    x = np.load(images)
    schema = ladle.Schema("image", (1, 28, 28), "binary")
    data = ladle.Dataset(schema, {"train": ladle.Split(x), "valid": ladle.Split(x[:8])})
    plan = ladle.recipe("vae", schema)
    plan["encoder"], plan["decoder"] = NETS[kind]
    plan["training"] = {"batch": int(batch)}
    assembly = ladle.assemble(schema, plan)
    steps_per_epoch = len(x) // int(batch)
    marks = []
    for step in ladle.fit(assembly, data, epochs=RUN):
        if step.kind == "train" and step.step % steps_per_epoch == 0:
            marks.append(time.perf_counter())
            if len(marks) == int(epochs):
                break
    items = steps_per_epoch * int(batch)
    print(json.dumps({
        "parameters": sum(p.numel() for p in assembly.model.parameters()),
        "items_per_s": [items / (b - a) for a, b in itertools.pairwise(marks)],
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Train pythae's default VAE for a given time. ``quality.py`` runs this script in an environment with pythae.

    python peer_quality.py TRAIN.npy TEST.npy MINUTES RATE THREADS

The networks, the batch size and the optimiser are pythae's defaults. After every epoch, its loss is measured on the
test items in evaluation mode, with the clock stopped. The script prints the seconds of training and the loss in nats
after every epoch, as JSON.
"""

import contextlib
import json
import sys
import tempfile
import time

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback

from peer_nets import LATENTS


class Enough(Exception):
    pass


class Clock(TrainingCallback):
    def __init__(self, model, test, seconds):
        self.model, self.test, self.limit = model, torch.from_numpy(test), seconds
        self.seconds, self.curve = 0.0, []

    def on_epoch_begin(self, training_config, **kwargs):
        self.start = time.perf_counter()

    def on_epoch_end(self, training_config, **kwargs):
        self.seconds += time.perf_counter() - self.start
        self.model.eval()
        with torch.no_grad():
            losses = [float(self.model({"data": x}).loss) * len(x) for x in self.test.split(1000)]
        self.model.train()
        self.curve.append((self.seconds, sum(losses) / len(self.test)))
        if self.seconds > self.limit:
            raise Enough


def main(train, test, minutes, rate, threads):
    torch.set_num_threads(int(threads))
    x, t = (np.load(path).astype(np.float32) for path in (train, test))
    model = VAE(VAEConfig(input_dim=x.shape[1:], latent_dim=LATENTS, reconstruction_loss="bce"))
    clock = Clock(model, t, 60 * float(minutes))
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(output_dir=folder, num_epochs=10_000, learning_rate=float(rate))
        with contextlib.suppress(Enough):
            TrainingPipeline(model=model, training_config=training)(train_data=x, callbacks=[clock])
    print(json.dumps(clock.curve))


if __name__ == "__main__":
    main(*sys.argv[1:])

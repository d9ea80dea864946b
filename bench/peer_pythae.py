"""Train pythae's VAE as its README describes. ``throughput.py`` runs this script in an environment with pythae.

    python peer_pythae.py KIND IMAGES.npy EPOCHS BATCH THREADS

It prints the training items per second of every epoch except the first, as JSON.
"""

import json
import sys
import tempfile
import time

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback

from peer_nets import LATENTS, make


class Encoder(BaseEncoder):
    def __init__(self, net):
        BaseEncoder.__init__(self)
        self.net = net

    def forward(self, x):
        mean, log_variance = self.net(x).chunk(2, dim=1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, net):
        BaseDecoder.__init__(self)
        self.net = net

    def forward(self, z):
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))


class Clock(TrainingCallback):
    def __init__(self):
        self.seconds = []

    def on_epoch_begin(self, training_config, **kwargs):
        self.start = time.perf_counter()

    def on_epoch_end(self, training_config, **kwargs):
        self.seconds.append(time.perf_counter() - self.start)


def main(kind, images, epochs, batch, threads):
    torch.set_num_threads(int(threads))
    encoder, decoder = make(kind)
    x = np.load(images).astype(np.float32)
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce")
    model = VAE(config, Encoder(encoder), Decoder(decoder))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder, num_epochs=int(epochs), per_device_train_batch_size=int(batch), learning_rate=1e-3
        )
        TrainingPipeline(model=model, training_config=training)(train_data=x, callbacks=[clock])
    print(json.dumps({
        "parameters": sum(p.numel() for p in model.parameters()),
        "items_per_s": [len(x) / seconds for seconds in clock.seconds[1:]],
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])

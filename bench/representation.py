"""Measure the quality of the latents by the accuracy of classifiers, compared with PCA of the same size.

    python bench/representation.py RUN [DATA]

The classifiers are 5 nearest neighbours and logistic regression. Latents and PCA are computed from the same pixels
(for binarised data, from the same fixed draw), fitted on the training split and evaluated on the test split. The
script prints one JSON object.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import ladle
from ladle.tasks.common import explained


def neighbours(train: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    return float(KNeighborsClassifier(5).fit(train, y).score(test, truth))


def probe(train: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(max_iter=300)
    return float(model.fit(scaler.transform(train), y).score(scaler.transform(test), truth))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data", nargs="?")
    arguments = parser.parse_args()
    model = ladle.load(arguments.run)
    dataset = ladle.read(arguments.data or model.config["data"]["source"], like=model.schema)
    labels = [dataset.split(s).labels for s in ("train", "test")]
    latents = [ladle.encode(model, dataset, split=s) for s in ("train", "test")]
    raw = [explained(model, dataset.split(s)).reshape(len(dataset.split(s)), -1) for s in ("train", "test")]
    pca = PCA(latents[0].shape[1], random_state=0).fit(raw[0])
    components = [pca.transform(x) for x in raw]
    print(json.dumps({
        "dimensions": latents[0].shape[1],
        "latents 5-nn": neighbours(latents[0], labels[0], latents[1], labels[1]),
        "pca 5-nn": neighbours(components[0], labels[0], components[1], labels[1]),
        "latents linear probe": probe(latents[0], labels[0], latents[1], labels[1]),
        "pca linear probe": probe(components[0], labels[0], components[1], labels[1]),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()

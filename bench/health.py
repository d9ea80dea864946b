"""Measure the false alarms of `ladle check`: train healthy models for a few seconds each and print a table.

    python bench/health.py

The tests of `ladle check` verify that each check detects a deliberate fault. This script verifies that healthy
models pass. The exit status is 1 if a problem is reported for any of them.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

import ladle


class Case(NamedTuple):
    data: str
    recipe: str
    epochs: float


CASES = [
    Case("digits", "vae", 30),
    Case("digits", "learned_prior", 20),
    Case("digits", "iwae_dreg", 20),
    Case("digits", "sigma_vae", 30),
    Case("digits", "beta_vae", 30),
    Case("digits (binary)", "vae", 30),
    Case("fashion-mnist-mini", "learned_prior", 2),
    Case("fashion-mnist-mini (binary)", "iwae_dreg", 1),
    Case("breast cancer", "sigma_vae", 60),
    Case("wine", "vae", 100),
    Case("diabetes", "learned_prior", 60),
]


def read(name: str) -> ladle.Dataset:
    """A named data set, or one of the tables of scikit-learn."""
    tables = {"breast cancer": load_breast_cancer, "wine": load_wine}
    if name in tables:
        return ladle.read(tables[name]().data.astype(np.float32))
    if name == "diabetes":
        return ladle.read(load_diabetes(scaled=False).data.astype(np.float32))
    source, _, binary = name.partition(" ")
    return ladle.read(source, binarize="dynamic" if binary else None)


def fitted(case: Case) -> tuple[ladle.Model, ladle.Dataset]:
    """Train a model of size xs."""
    data = read(case.data)
    assembly = ladle.assemble(data.schema, case.recipe, "xs")
    for _ in ladle.fit(assembly, data, epochs=case.epochs):
        pass
    return ladle.Model(assembly.model.eval(), data.schema, {}, "cpu"), data


def main() -> int:
    torch.set_num_threads(1)
    failures = 0
    numbers = f"{'KL':>7}{'I(x;z)':>8}{'shuffle':>9}{'prior':>7}{'samples':>9}{'gap':>8}{'s':>6}"
    print(f"{'data':28}{'recipe':15}{numbers}  problems")
    for case in CASES:
        model, data = fitted(case)
        start = time.perf_counter()
        health = ladle.check(model, data)
        seconds = time.perf_counter() - start
        failures += not health.ok

        def number(name: str, key: str, health: ladle.Health = health) -> float:
            return health[name].measured.get(key, float("nan"))

        print(
            f"{case.data:28}{case.recipe:15}{number('collapse', 'kl'):7.2f}{number('information', 'nats'):8.2f}"
            f"{number('shuffle', 'drop'):9.1f}{number('prior', 'auc'):7.2f}{number('samples', 'auc'):9.2f}"
            f"{number('generalisation', 'relative'):8.2f}{seconds:6.1f}  "
            f"{', '.join(f.name for f in health.problems) or '-'}",
            flush=True,
        )
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())

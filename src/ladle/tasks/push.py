"""Upload a model to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from ladle.store.folder import ModelError, load
from ladle.store.hub import checked, is_hub, upload


def push(run: str | Path, name: str, *, private: bool = False) -> str:
    """Upload a model folder to the Hugging Face Hub, from which ``ladle.load("hub:user/name")`` loads it.

    Args:
        run: a local folder written by ``fit``. It is loaded first, so that only a complete model is uploaded.
        name: ``user/name``. The repository is created if it does not exist.
        private: create the repository as private. The visibility of an existing repository is not changed.

    Returns:
        The address of the commit.

    Raises:
        ModelError: if the folder is not a model, the name is not valid, or the Hub refuses or cannot be reached.
        MissingPackage: if ``huggingface_hub`` is not installed: ``pip install 'ladle[hub]'``.
    """
    checked(name)
    if is_hub(run):
        raise ModelError(f"the model to push must be a local folder, got '{run}'")
    load(Path(run), "cpu")
    return upload(Path(run), name, private)

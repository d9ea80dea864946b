"""Model folders on the Hugging Face Hub: ``hub:user/name``, or ``hub:user/name@revision``.

A repository is an untrusted folder. Only the requested files are downloaded, all from one commit, and no file that is
larger than the caller's limit.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ladle.machine import require
from ladle.store.files import ModelError

PREFIX = "hub:"
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
EXACT = "exact.safetensors"  # the integer model, present if data was compressed with it
FILES = ("config.json", "model.safetensors", EXACT, "README.md", "log.jsonl", "report.html")  # and *.png
TIMEOUT = 20.0  # seconds, for the Hub's description of a repository


def is_hub(name: str | Path) -> bool:
    """
    >>> is_hub("hub:user/name"), is_hub("runs/one")
    (True, False)
    """
    return str(name).startswith(PREFIX)


class Repository:
    """A model repository at one commit.

    Args:
        name: ``hub:user/name`` or ``hub:user/name@revision``.

    Raises:
        ModelError: if the name is not valid, the repository does not exist or is not accessible, or the Hub cannot be
            reached.
        MissingPackage: if ``huggingface_hub`` is not installed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        repository, at, self.revision = name.removeprefix(PREFIX).partition("@")
        self.id = checked(repository)
        if at and not self.revision:
            raise ModelError(f"'{name}': the revision after '@' must be a branch, a tag or a commit")
        self.revision = self.revision or "main"
        self.hub = require("huggingface_hub", "hub")
        self.cached: Path | None = None
        self.sizes: dict[str, int | None] = {}
        with _translate_hub_errors(name):
            try:
                info = self.hub.HfApi().model_info(
                    self.id, revision=self.revision, files_metadata=True, timeout=TIMEOUT
                )
            except Exception as error:
                self.cached = self._cached() if _is_unreachable(error) else None
                if self.cached is None:
                    raise
            else:
                self.commit = info.sha
                self.sizes = {file.rfilename: file.size for file in info.siblings or []}

    def _cached(self) -> Path | None:
        """The folder of an earlier download, used if the Hub cannot be reached; ``None`` if there is none."""
        try:
            patterns = ["config.json", "model.safetensors", EXACT]
            return Path(
                self.hub.snapshot_download(
                    self.id, revision=self.revision, allow_patterns=patterns, local_files_only=True
                )
            )
        except Exception:  # nothing is cached: the caller reports why the Hub was not reached
            return None

    def fetch(self, file: str, most: int) -> Path:
        """Download a file of the repository, or take it from the cache.

        Args:
            file: the name of the file.
            most: the largest permitted size in bytes; a larger file is not downloaded.

        Returns:
            The local path of the file.
        """
        if self.cached is not None:
            return self.cached / file
        if file not in self.sizes:
            raise ModelError(f"no {file} in '{self.name}': it is not a model of Ladle")
        size = self.sizes[file]
        if size is None or size > most:
            raise ModelError(f"'{self.name}': {file} must be at most {most:,} bytes, but the Hub lists {size}")
        with _translate_hub_errors(self.name):
            path = Path(self.hub.hf_hub_download(self.id, file, revision=self.revision))
        if path.parent.name != self.commit:
            raise ModelError(f"'{self.name}' changed during the download; try again")
        return path


def checked(name: str) -> str:
    """Return the name of a repository if it has the form ``user/name``.

    Raises:
        ModelError: if it does not.
    """
    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise ModelError(f"the name of a Hub repository must be user/name, got '{name}'")
    return name


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Upload a model folder to a repository, which is created if it does not exist.

    Only the files of the model and its images are uploaded, neither checkpoints nor the files of loggers.

    Args:
        folder: the model folder.
        name: ``user/name``.
        private: create the repository as private. An existing repository is not changed.

    Returns:
        The URL of the commit.

    Raises:
        ModelError: if the name is not valid, or the Hub denies access or cannot be reached.
        MissingPackage: if ``huggingface_hub`` is not installed.
    """
    checked(name)
    hub = require("huggingface_hub", "hub")
    files = sorted(p.name for p in folder.iterdir() if p.is_file() and (p.name in FILES or p.suffix == ".png"))
    with _translate_hub_errors(name):
        api = hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[glob.escape(file) for file in files],
            commit_message="Upload model with Ladle",
        )
    return str(commit.commit_url)


def _is_unreachable(error: Exception) -> bool:
    """Whether the Hub did not respond at all, as opposed to an error response."""
    return getattr(error, "response", None) is None and not isinstance(error, ValueError)


@contextmanager
def _translate_hub_errors(name: str) -> Iterator[None]:
    """Turn errors of ``huggingface_hub`` into a :class:`ModelError` of one line."""
    errors = require("huggingface_hub.errors", "hub")
    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(f"'{name}' is gated: accept its terms on the Hub, then log in with `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"'{name}': the repository has no such revision") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"no model '{name}' on the Hub, or it is private and needs a token: run `hf auth login` or set HF_TOKEN"
        ) from None
    except errors.LocalTokenNotFoundError:
        raise ModelError("the Hub needs a token: run `hf auth login` or set HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise ModelError(
                f"the Hub denies access to '{name}' ({status}): run `hf auth login` or set HF_TOKEN; "
                "pushing needs a token with write access"
            ) from None
        raise ModelError(f"the Hub returned an error for '{name}': {_line(error)}") from None
    except errors.HFValidationError as error:
        raise ModelError(f"the name of a Hub repository must be user/name, got '{name}': {_line(error)}") from None
    except Exception as error:  # no network, offline mode, a server that is not the Hub
        raise ModelError(f"the Hub cannot be reached for '{name}': {_line(error)}") from None


def _line(error: Exception) -> str:
    """The first line of an error message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]

"""Named image data sets. Each is a part ``dataset/name``: a function that takes a request and returns the content and
the binarisation that is part of the data set."""

from __future__ import annotations

import os
import tarfile
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from ladle.data.arrays import gather, load_npz
from ladle.data.content import Content, Request
from ladle.data.errors import DataError
from ladle.data.fetch import Remote, cache_folder, fetch, here
from ladle.data.idx import four
from ladle.spec import part

Named = tuple[Content, str | None]

_DIGITS = tuple("0123456789")
_CLOTHES = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_FOUR = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST = Remote(
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    dict(zip(_FOUR, (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ), strict=True)),
)  # fmt: skip
_FASHION = Remote(
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/"
    "b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion/",
    dict(zip(_FOUR, (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ), strict=True)),
)  # fmt: skip
_CIFAR = Remote(
    "https://www.cs.toronto.edu/~kriz/",
    {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
)
_TRAIN_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST_BATCH = "test_batch.bin"
_RECORD = 1 + 3 * 32 * 32


@part("dataset", "digits")
def digits(request: Request) -> Named:
    """The 1,797 digits of scikit-learn, 8 x 8; their grey levels x in 0..16 are scaled to x * 255 / 16 and rounded."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = np.round(found.images * (255 / 16)).astype(np.uint8)
    return gather({"all": x}, {"all": found.target}, "digits", request, (), _DIGITS), None


@part("dataset", "mnist")
def mnist(request: Request) -> Named:
    """MNIST in grey: 60,000 training and 10,000 test images of handwritten digits, 28 x 28."""
    return _four("mnist", _MNIST, _DIGITS, request), None


@part("dataset", "mnist-binary")
def mnist_binary(request: Request) -> Named:
    """MNIST with dynamic binarisation."""
    return mnist(request)[0], "dynamic"


@part("dataset", "mnist-static")
def mnist_static(request: Request) -> Named:
    """Larochelle's fixed binarisation of MNIST: 50,000 training, 10,000 validation, 10,000 test images; no labels."""
    name = "binarized_mnist.npz"
    folder = here("binarized-mnist", (name,))
    if folder is None:
        raise DataError(_absent("mnist-static", "binarized-mnist", (name,), "it cannot be downloaded"))
    arrays = load_npz(folder / name, ("train", "valid", "test"))
    for split, packed in arrays.items():
        if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != 98:
            raise DataError(f"{name}: '{split}' must be (N, 98) packed bits (uint8), got {packed.dtype} {packed.shape}")
    data = {split: np.unpackbits(packed, axis=1).reshape(-1, 28, 28) for split, packed in arrays.items()}
    return gather(data, {}, "mnist-static", request), None


@part("dataset", "fashion-mnist")
def fashion_mnist(request: Request) -> Named:
    """Fashion-MNIST in grey: 60,000 training and 10,000 test images of clothing, 28 x 28."""
    return _four("fashion-mnist", _FASHION, _CLOTHES, request), None


@part("dataset", "fashion-mnist-binary")
def fashion_mnist_binary(request: Request) -> Named:
    """Fashion-MNIST with dynamic binarisation."""
    return fashion_mnist(request)[0], "dynamic"


@part("dataset", "fashion-mnist-mini")
def fashion_mnist_mini(request: Request) -> Named:
    """The first 15,000 training and 2,500 test images of Fashion-MNIST, which are included in this package."""
    with as_file(files("ladle.data") / "bundled") as folder:
        found = [path for path in sorted(folder.iterdir()) if path.name.endswith(".xz")]
        return four(folder, found, request, _CLOTHES), None


@part("dataset", "cifar10")
def cifar10(request: Request) -> Named:
    """CIFAR-10, the official binary release: 50,000 training and 10,000 test colour photographs, 32 x 32."""
    folder = here("cifar10", (_TEST_BATCH, _TRAIN_BATCHES[0])) or here("cifar-10-batches-bin", (_TEST_BATCH,))
    if folder is None:
        names = (*_TRAIN_BATCHES, _TEST_BATCH)
        try:
            folder = _unpack(fetch("cifar10", _CIFAR) / "cifar-10-binary.tar.gz", names)
        except OSError as error:
            raise DataError(_absent("cifar10", "cifar10", names, f"the download failed: {error}")) from None
    found = [name for name in _TRAIN_BATCHES if (folder / name).is_file()]
    if not found:
        raise DataError(f"cifar10: '{folder.name}' must contain at least one of {', '.join(_TRAIN_BATCHES)}, got none")
    trained, tested = [_records(folder / name) for name in found], _records(folder / _TEST_BATCH)
    data = {"train": np.concatenate([x for x, _ in trained]), "test": tested[0]}
    labels = {"train": np.concatenate([y for _, y in trained]), "test": tested[1]}
    notes: tuple[str, ...] = ()
    if len(found) < len(_TRAIN_BATCHES):
        notes = (f"cifar10: {len(found)} of 5 training batches were found ({len(data['train'])} images)",)
    return gather(data, labels, "cifar10", request, notes, _THINGS), None


def _four(name: str, remote: Remote, label_names: tuple[str, ...], request: Request) -> Content:
    """Read a data set in the four files of MNIST, from ``$LADLE_DATA``, the cache, or its public address."""
    try:
        folder = here(name, _FOUR) or fetch(name, remote)
    except OSError as error:
        raise DataError(_absent(name, name, _FOUR, f"the download failed: {error}")) from None
    return four(folder, [folder / file for file in _FOUR], request, label_names)


def _absent(name: str, folder: str, files: tuple[str, ...], why: str) -> str:
    got = "they were not found" if os.environ.get("LADLE_DATA") else "LADLE_DATA is not set"
    return (
        f"the files of '{name}' must be in $LADLE_DATA/{folder}: {', '.join(files)}; {got}, and {why}. "
        "'digits' and 'fashion-mnist-mini' need no files"
    )


def _unpack(archive: Path, names: tuple[str, ...]) -> Path:
    """Extract the members ``names`` of a verified archive into the cache, and return the folder."""
    target = cache_folder("cifar10")
    if all((target / name).is_file() for name in names):
        return target
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            content = tar.extractfile(member) if name in names else None
            if content is not None:
                temporary = target / f"{name}.part"
                temporary.write_bytes(content.read())
                os.replace(temporary, target / name)
    return target


def _records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images ``(N, 3, 32, 32)`` and labels ``(N,)`` of one file of the binary release."""
    size = path.stat().st_size
    if size == 0 or size % _RECORD:
        raise DataError(f"{path.name}: must consist of records of {_RECORD} bytes, got {size} bytes")
    records = np.fromfile(path, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]

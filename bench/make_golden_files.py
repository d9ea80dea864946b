"""Make tests/golden/ladle-vN: small models in whole numbers, and files compressed with them.

    python bench/make_golden_files.py tests/golden/ladle-v1

The files are made once for each format version of the container or of the models, and never changed: every later
version of the library must decode the same numbers from them. In ladle-v1 the lossy files were made before ``sharpest``
existed; ``local_colour.wider.ladle`` was made later, with the same model, and has it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import ladle

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from coding_plans import fitted

MODELS = ("learned_prior", "vampprior", "vq", "colour", "local colour")
ITEMS = 12
MODES: dict[str, dict[str, Any]] = {
    "bitsback": {},
    "random-access": {"mode": "random-access"},
    "loss": {"quality": 20.0},
}


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True)
    hashes: dict[str, str] = {}
    for name in MODELS:
        stem = name.replace(" ", "_")
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            x = fitted(name, run)
            for mode, options in MODES.items():
                file = out / f"{stem}.{mode}.ladle"
                ladle.compress(run, x[:ITEMS], file, **options)
                back = ladle.decompress(file, model=run)
                assert back is not None
                hashes[file.name] = hashlib.sha256(back.tobytes()).hexdigest()
            shutil.copy(run / "exact.safetensors", out / f"{stem}.safetensors")
    (out / "expected.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Make tests/golden/ladle-vN: small models in whole numbers, and files that were compressed with them.

    python bench/make_golden_files.py tests/golden/ladle-v1

Made once for each version of the container or of the models' file and then kept as they are: every later version must
bring the same numbers back from them. In ladle-v1 the files with loss are older than ``sharpest``;
``local_colour.wider.ladle``, made later with the model that lies there, has it.
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
    told: dict[str, str] = {}
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
                told[file.name] = hashlib.sha256(back.tobytes()).hexdigest()
            shutil.copy(run / "exact.safetensors", out / f"{stem}.safetensors")
    (out / "expected.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A study run cell by cell in this process, on a profile of a few seconds: what several test files share."""
import json
import shutil
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TINY = {"width": 0.03, "width_d": 0.05, "z_dim": 4, "batch": 4, "dropout": 0.0, "noise_std": 0.0}
PROFILE = {"images": {"name": "blossoms", "resolution": 32, "n_classes": 3, "per_class": 8, "root": None},
           "model": {"steps": 2, "gan": TINY}, "classifier": {"name": "resnet20", "epochs": 1, "width": 0.25, "batch": 8}, "stages": {}}


def study(name, where, monkeypatch, tmp_path, profile, **parameters):
    """Run the cells of a study in a checkout of its own with the profile `profile` (a dictionary); returns its names at the end."""
    (tmp_path / "nbs" / "profiles").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "nbs" / "claims.yaml", tmp_path / "nbs")
    (tmp_path / "nbs" / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("ACGAN_HOME", str(tmp_path))
    monkeypatch.setenv("ACGAN_WORK", str(tmp_path / "data"))
    names = {}
    for cell in json.loads((ROOT / "nbs" / where / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names.update({"profile": "tiny", "label": "tiny", "device": "cpu"} | parameters)
    return names

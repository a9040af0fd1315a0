"""The wheel: it holds the templates and the class ids, and the package finds them without a checkout."""
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = sorted(path.name for path in (ROOT / "acgan" / "templates").iterdir())
PROGRAM = """
import acgan, acgan.figures
from acgan.classifiers import imagenet_ids
print(acgan.__file__)
print(len(imagenet_ids()))
print(*sorted(acgan.figures.TEMPLATES.list_templates()))
for name in acgan.figures.TEMPLATES.list_templates():
    acgan.figures.TEMPLATES.get_template(name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the checkout's package, built without a network; old build folders cannot get into it."""
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("pyproject.toml needs setuptools 77 or newer")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "acgan", source / "acgan", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(out.glob("acgan-*.whl"))


def test_the_wheel_holds_every_file_of_the_package(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {"report.html.j2", "report.css"} <= set(TEMPLATES)
    assert {f"acgan/templates/{name}" for name in TEMPLATES} <= inside
    assert "acgan/imagenet_ids.txt" in inside
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "acgan").rglob("*.py")} <= inside
    assert not [name for name in inside if not name.startswith("acgan")], "nothing but the package"


def test_the_package_finds_its_files_in_an_unpacked_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ACGAN_")} | {"PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / "site" / "acgan" / "__init__.py"), "1000", " ".join(TEMPLATES)]


ANALYSE = """
from acgan import cli, data
from PIL import Image
from pathlib import Path
for name, split, seed in (("samples", "train", 1), ("real/train", "train", 0), ("real/test", "test", 0)):
    images = data.load("blossoms", split, 32, n_classes=2, per_class=20, seed=seed)
    for i, pixels in enumerate(images.images):
        path = Path(name, images.classes[images.labels[i]], f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
raise SystemExit(cli.main(["analyse", "samples", "--real", "real", "--out", "report", "--device", "cpu"]))
"""


def test_analyse_works_from_an_unpacked_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ACGAN_")} | {"PYTHONPATH": str(tmp_path / "site")}
    (tmp_path / "here").mkdir()
    result = subprocess.run([sys.executable, "-c", ANALYSE], cwd=tmp_path / "here", env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "None of 2 classes is collapsed." in result.stdout
    assert (tmp_path / "here" / "report" / "report.html").is_file()
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["real", "report", "samples"], "nothing else was written"

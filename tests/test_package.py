"""The package: equal to its notebooks, importable alone, layered, lint-clean; the two configurations agree; nothing private in the files."""
import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
MODULES = {re.sub(r"^\d+[a-z]*_", "", p.stem): p.stem.split("_")[0] for p in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")) if p.stem != "18_init"}
ANALYSES = [re.sub(r"^\d+[a-z]*_", "", p.stem) for p in sorted((ROOT / "nbs" / "analyses").glob("*.ipynb"))]
SOURCES = [ROOT / "acgan" / f"{name}.py" for name in MODULES]


def test_package_equals_notebooks(tmp_path):
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export as e; e.__wrapped__()"], cwd=tmp_path, check=True, env=env)
    here, made = ({p.relative_to(r): p.read_bytes() for p in r.rglob("*.py")} for r in (ROOT / "acgan", tmp_path / "acgan"))
    assert set(here) == set(made)
    assert [str(p) for p in here if here[p] != made[p]] == [], "edited by hand, or not exported: run nbdev_export"


def test_every_notebook_is_a_module():
    assert {p.stem for p in (ROOT / "acgan").glob("*.py")} == {*MODULES, "__init__", "_modidx"}


def test_an_analysis_imports_neither_claims_nor_what_publishes():
    assert {p.stem for p in (ROOT / "acgan" / "analyses").glob("*.py")} == {*ANALYSES, "__init__"}
    for path in (ROOT / "acgan" / "analyses" / f"{name}.py" for name in ANALYSES):
        for node in ast.walk(ast.parse(path.read_text())):
            inside = isinstance(node, ast.ImportFrom) and node.level == 2 or getattr(node, "module", None) == "acgan"
            names = [alias.name for alias in node.names] if inside and node.module in (None, "acgan") else [node.module.split(".")[0]] if inside else []
            assert not [name for name in names if name == "claims" or MODULES.get(name, "0") > "12"], f"{path.stem} imports {names}"


def test_settings_agree():
    ini = configparser.ConfigParser()
    ini.read(ROOT / "settings.ini")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    settings = ini["DEFAULT"]
    for key, value in project["tool"]["nbdev"].items():
        ours = " ".join(value) if isinstance(value, list) else str(value)
        assert settings[key].lower() == ours.lower(), key
    assert project["project"]["requires-python"] == f">={settings['min_python']}" and project["project"]["name"] == settings["lib_name"]
    assert project["project"]["description"] == settings["description"]
    text = (ROOT / "acgan" / "__init__.py").read_text()
    assert f'__version__ = "{settings["version"]}"' in text.replace("'", '"')
    runtime = " ".join(project["project"]["dependencies"])
    assert not re.search(r"nbdev|fastcore|jupyter|ipykernel|papermill", runtime)
    test = project["project"]["optional-dependencies"]["test"]
    chain = project["project"]["optional-dependencies"]["chain"]
    assert "nbdev>=2.4.14,<3" in test and {"execnb<0.2", "fastcore<2"} <= set(chain)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_a_module_imports_only_lower_ones(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("acgan")):
            parts = (node.module or "").split(".")[0 if node.level else 1:]
            names = parts[:1] if parts and parts[0] else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("acgan.")]
        else:
            continue
        for name in names:
            if name in MODULES:
                assert MODULES[name] < MODULES[path.stem], f"{path.stem} imports {name}"


def test_modules_need_no_notebook_software():
    program = f"""
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"nbdev", "fastcore", "execnb", "IPython", "ipykernel", "jupyter_client", "papermill", "nbclient", "pytest"}}:
            raise ModuleNotFoundError("blocked " + name)
sys.meta_path.insert(0, Refuse())
for name in {sorted(MODULES) + ["analyses." + name for name in ANALYSES]!r}:
    module = importlib.import_module("acgan." + name)
    for public in module.__all__:
        getattr(module, public)
print("fine")
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "fine\n", result.stderr


def test_lint():
    result = subprocess.run([sys.executable, "-m", "ruff", "check", "--select", "F", "--no-cache", "acgan", "tests"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def tracked():
    """Files that are, or will be, under version control."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    names = [n for n in listed if n] or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts]
    kinds = {".py", ".ipynb", ".md", ".toml", ".ini", ".yaml", ".yml", ".json", ""}
    return [ROOT / n for n in names if Path(n).suffix in kinds and not n.startswith(("data/", ".venv")) and (ROOT / n).is_file()]


def test_no_pickles_and_no_machine_paths():
    private = re.compile(r"(?<![\w.])/(?:root|home|work|Users|mnt)/\w")
    for path in tracked():
        text = path.read_text(errors="replace")
        found = private.search(text)
        assert not found, f"{path.relative_to(ROOT)} holds the machine's path {text[found.start():found.start() + 40]!r}"
        if path.suffix in (".py", ".ipynb") and path.parts[-2] != "tests":
            assert not re.search(r"\bpickle\.(load|dump|Pickler|Unpickler\()|\bimport (joblib|dill)\b|allow_pickle=True", text), path.name
            for call in re.findall(r"(?<!safetensors\.)torch\.load\([^)]*\)", text):
                assert "weights_only=True" in call, f"{path.name}: {call}"


def test_no_large_files():
    assert not [p.name for p in tracked() if p.stat().st_size > 1_000_000 and "figures" not in p.parts]


def test_notebook_anchors_are_in_the_index():
    names = json.loads(json.dumps(__import__("acgan._modidx", fromlist=["d"]).d["syms"]))
    assert {f"acgan.{name}" for name in MODULES} | {f"acgan.analyses.{name}" for name in ANALYSES} <= set(names)


def test_every_public_name_is_documented():
    """Functions, classes, their methods and properties; `forward` is described by its class."""
    lacking = []
    for path in sorted((ROOT / "acgan").rglob("*.py")):
        tree = ast.parse(path.read_text()) if path.name != "_modidx.py" else ast.Module([], [])
        found = [(node.name, node) for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        found += [(f"{name}.{part.name}", part) for name, node in found if isinstance(node, ast.ClassDef) for part in node.body if isinstance(part, ast.FunctionDef)]
        lacking += [f"{path.stem}.{name}" for name, node in found if not ast.get_docstring(node)
                    and not any(word.startswith("_") for word in name.split(".")) and node.name != "forward"]
    assert not lacking

"""The house style, checked: library notebooks explain before they export and check what they export; studies hold no logic; the tour
shows its outputs."""
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted([*(ROOT / "nbs").glob("[0-9]*.ipynb"), *(ROOT / "nbs" / "analyses").glob("*.ipynb")])
TOUR = ROOT / "nbs" / "index.ipynb"
STUDIES = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if p not in [*LIBRARY, TOUR] and ".ipynb_checkpoints" not in p.parts)
EVERY = [*LIBRARY, *STUDIES, TOUR]


def load(path):
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def exported(cell):
    return cell["cell_type"] == "code" and re.search(r"^#\|\s*export\s*$", cell["source"], re.M) is not None


def docstring_lines(source):
    documented = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None]
    return {line for node in documented for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)}


def lines(cell):
    """Lines of code of a cell: without docstrings, directives and empty lines."""
    docs = docstring_lines(cell["source"])
    return sum(bool(line.strip()) and not line.startswith("#|") and i not in docs for i, line in enumerate(cell["source"].splitlines(), 1))


def definitions(source):
    return [node for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))]


def public_names(source):
    names = [node.name for node in definitions(source)]
    for node in ast.parse(source).body:
        names += [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
        names += [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []
    return [name for name in names if not name.startswith("_")]


def is_imports(source):
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) or isinstance(node, ast.Expr) for node in ast.parse(source).body)


def checks(source, name):
    tree = ast.parse(source)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return name in used and (any(isinstance(node, ast.Assert) for node in ast.walk(tree)) or "raises" in source or "gradcheck" in source)


def test_there_are_notebooks():
    assert len(LIBRARY) >= 10 and len(STUDIES) >= 7


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.stem)
def test_form(path):
    notebook = load(path)
    assert path.stat().st_size < (400_000 if path == TOUR else 140_000)
    assert notebook["metadata"]["kernelspec"] == {"display_name": "python3", "language": "python", "name": "python3"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    headings = [line for cell in notebook["cells"] if cell["cell_type"] == "markdown" for line in cell["source"].splitlines() if line.startswith("# ")]
    assert len(headings) == 1, f"one H1, not {headings}"
    top = next(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert re.match(r"# .+\n\n> .+", top), "the first Markdown cell is the title and its > line"
    for cell in code(notebook):
        assert cell["execution_count"] is None
        assert not [o for o in cell["outputs"] if o["output_type"] == "error" or o.get("name") == "stderr"]
        tree = ast.parse(cell["source"])
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and any(a.name == "*" for a in n.names)], "star import"
        assert not re.search(r"#.*\b(TODO|FIXME|XXX)\b|^\s*[!%]", cell["source"], re.M)
        assert 'filterwarnings("ignore")' not in cell["source"] and "filterwarnings('ignore')" not in cell["source"]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_cells_are_short(path):
    sizes = [(lines(cell), cell["id"]) for cell in code(load(path))]
    assert max(sizes)[0] <= 40, f"cell {max(sizes)[1]} has {max(sizes)[0]} lines"
    long = [size for size in sizes if size[0] > 20]
    assert len(long) <= 0.1 * len(sizes), f"more than a tenth of the cells have over 20 lines: {long}"


def test_nine_of_ten_cells_fit_a_glance():
    sizes = [lines(cell) for path in LIBRARY for cell in code(load(path))]
    assert sum(size > 14 for size in sizes) <= 0.1 * len(sizes)


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.stem)
def test_lines_are_narrow(path):
    wide = [(cell["id"], line) for cell in code(load(path)) for line in cell["source"].splitlines() if len(line) > 100]
    assert not wide


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_prose_comes_before_what_is_exported(path):
    words, poor = 0, []
    for cell in load(path)["cells"]:
        if cell["cell_type"] == "markdown":
            words += len(cell["source"].split())
        elif exported(cell):
            if words < 25 and not is_imports(cell["source"]):
                poor.append((cell["id"], words, cell["source"].splitlines()[1][:60]))
            words = 0 if not is_imports(cell["source"]) else words
    assert not poor, f"fewer than 25 words before: {poor}"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_one_definition_a_cell_and_it_is_checked_at_once(path):
    cells, unchecked = code(load(path)), []
    for i, cell in enumerate(cells):
        if exported(cell) and not is_imports(cell["source"]):
            assert len(definitions(cell["source"])) <= 1, f"cell {cell['id']} defines {[d.name for d in definitions(cell['source'])]}"
            after, made = cells[i + 1:i + 3], {d.name for d in definitions(cell["source"])}
            for name in public_names(cell["source"]):
                constant = name not in made
                if constant and made or any(checks(c["source"], name) or constant and name in c["source"] for c in after):
                    continue
                unchecked.append(name)
    assert not unchecked, f"not exercised within two cells: {unchecked}"


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_studies_hold_no_logic_and_no_outputs(path):
    cells = code(load(path))
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1
    for cell in cells:
        assert cell["outputs"] == []
        assert not exported(cell) and "default_exp" not in cell["source"]
        assert not [n for n in ast.walk(ast.parse(cell["source"])) if isinstance(n, (ast.FunctionDef, ast.ClassDef))], "a study defines nothing"
        assert not re.search(r"%run|\.ipynb", cell["source"]), "studies meet through files"
    parameters = next(cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    assert all(isinstance(n, ast.AnnAssign) for n in ast.parse(parameters).body) and parameters.count("#") >= len(ast.parse(parameters).body)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_a_library_notebook_keeps_small_outputs_of_cells_that_run_alone(path):
    for cell in code(load(path)):
        assert bool(cell["outputs"]) == ("shown" in cell["metadata"].get("tags", [])), f"cell {cell['id']}: tags and outputs"
        assert not cell["outputs"] or not exported(cell)
        pictures = [output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output.get("data", {})]
        assert all(len(picture) * 3 / 4 <= 15_000 for picture in pictures), f"cell {cell['id']}: a picture of over 15 kB"


def test_the_tour_reads_like_an_essay():
    notebook = load(TOUR)
    for cell in code(notebook):
        assert lines(cell) <= 12, f"cell {cell['id']} has {lines(cell)} lines"
        assert max(map(len, cell["source"].splitlines())) <= 100, f"cell {cell['id']} is too wide"
        assert not exported(cell) and "default_exp" not in cell["source"]
    shown = sum(bool(cell["outputs"]) for cell in code(notebook))
    words = sum(len(cell["source"].split()) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert shown >= len(code(notebook)) - 3, "cells without outputs"
    assert words >= 30 * len(code(notebook)), "more code than prose"


@pytest.mark.parametrize("path", [p for p in STUDIES if p.parent != ROOT / "nbs"], ids=lambda p: p.stem)
def test_a_study_reads_like_a_page(path):
    for cell in code(load(path)):
        if "parameters" in cell["metadata"].get("tags", []):
            continue
        assert lines(cell) <= 12, f"cell {cell['id']} has {lines(cell)} lines"
        assert len(cell["source"]) <= 600, f"cell {cell['id']} has {len(cell['source'])} characters"
        assert max(map(len, cell["source"].splitlines())) <= 100, f"cell {cell['id']} is too wide"


def test_studies_are_kept_from_nbdev_test():
    folders = {path.parent for path in STUDIES} - {ROOT / "nbs"}
    assert all((folder / ".notest").is_file() for folder in folders), "papermill runs the studies, nbdev_test must not"


def test_nbdev_clean_changes_nothing(tmp_path):
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    before = {p: p.read_bytes() for p in (tmp_path / "nbs").rglob("*.ipynb")}
    subprocess.run([sys.executable, "-c", "from nbdev.clean import nbdev_clean as c; c.__wrapped__()"], cwd=tmp_path, check=True)
    dirty = [p.name for p, data in before.items() if p.read_bytes() != data]
    assert not dirty, f"not clean: {dirty} (run nbdev_clean)"

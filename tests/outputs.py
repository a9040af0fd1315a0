"""The outputs that notebooks keep: made anew, compared with those that are committed. `python tests/outputs.py [NOTEBOOK ...]` writes them."""
import base64
import copy
import html
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from nbclient import NotebookClient
from nbformat import v4
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TOUR = ROOT / "nbs" / "index.ipynb"
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")


def read(path):
    """The notebook at `path`, each cell's source one string."""
    notebook = json.loads(Path(path).read_text())
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def with_outputs():
    """The paths of all notebooks that keep outputs, the tour first."""
    paths = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    return sorted((path for path in paths if any(cell.get("outputs") for cell in read(path)["cells"])), key=lambda path: path != TOUR)


def run(sources, folder):
    """The outputs of the code `sources`, run one after the other in a new kernel in `folder`, as nbdev_clean leaves them."""
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])
    quiet = {"ACGAN_HOME": str(ROOT), "ACGAN_HEADLESS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as work:
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
        client.execute(env=os.environ | quiet | {"ACGAN_WORK": work})
    return [[plain(output) for output in cell.outputs if output.get("name") != "stderr"] for cell in notebook.cells]


def plain(output):
    """`output` of a kernel as a notebook keeps it: no count, text as lines."""
    output = copy.deepcopy(dict(output))
    if "execution_count" in output:
        output["execution_count"] = None
    if "text" in output:
        output["text"] = output["text"].splitlines(keepends=True)
    if "data" in output:
        output["data"] = {kind: value.rstrip() if kind.startswith("image/") else value.splitlines(keepends=True)
                          for kind, value in output["data"].items()}
    return output


def kinds(outputs):
    """What each of `outputs` is: 'stdout', or the types of its data."""
    return [output.get("name") or sorted(output["data"]) for output in outputs]


def text_of(outputs):
    """All text of `outputs`, HTML without its marks."""
    parts = []
    for output in outputs:
        data = output.get("data", {})
        text = next(("".join(data[kind]) for kind in ("text/html", "text/markdown", "text/plain") if kind in data), "".join(output.get("text", "")))
        text = re.sub(r"<style.*?</style>|<[^>]+>", " ", text, flags=re.S) if "text/html" in data else text
        parts += [] if any(kind.startswith("image/") for kind in data) else [html.unescape(text)]
    return re.sub(r"\s+", " ", " ".join(parts)).strip()


def pictures(outputs):
    """The pictures of `outputs`: uint8 [h,w,3] each."""
    found = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode("".join(data)))).convert("RGB")) for data in found]


def text_difference(old, new, near, exact_counts=True):
    """How text `new` differs from `old`, or None. Numbers a, b are equal when |a - b| <= near * (1 + larger of |a|, |b|), and whole
    numbers, with `exact_counts`, only when they are the same."""
    if NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return f"the text {old!r} is now {new!r}"
    for pair in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True):
        a, b = (float(value.replace(",", "")) for value in pair)
        whole = exact_counts and not any("." in value or "e" in value for value in pair)
        if abs(a - b) > (0 if whole else near * (1 + max(abs(a), abs(b)))):
            return f"the number {pair[0]} is now {pair[1]}, in {new[:200]!r}"
    return None


def picture_difference(old, new, near, size):
    """How picture `new` differs from `old`, or None: each side by the share `size`, pixels by `near` levels on average (None: any)."""
    if any(abs(a - b) > size * a for a, b in zip(old.shape[:2], new.shape[:2])):
        return f"a picture of {old.shape[:2]} pixels is now {new.shape[:2]}"
    if near is None or old.shape != new.shape:
        return None
    mean = np.abs(old.astype(float) - new).mean()
    return f"a picture differs by {mean:.2f} levels on average" if mean > near else None


def difference(old, new, same_machine, trained=False):
    """How the outputs `new` of a cell differ from its `old` ones, or None.

    On the machine that made `old`, nothing may differ but the last digit of a number. Elsewhere numbers and pixels may differ a
    little, and what a network shows that was trained there, `trained`, may differ as much as two trainings do."""
    if kinds(old) != kinds(new):
        return f"outputs {kinds(old)} are now {kinds(new)}"
    near = 1e-6 if same_machine else 0.25 if trained else 0.02
    found = [text_difference(text_of(old), text_of(new), near, not trained)]
    size, level = (0, 0.5) if same_machine else (0.05, None if trained else 10)
    found += [picture_difference(a, b, level, size) for a, b in zip(pictures(old), pictures(new))]
    return next((text for text in found if text), None)


def number_difference(old, new, near=0.02):
    """How the last number of the outputs `new` differs from that of `old`, or None: a text before it may say anything."""
    return text_difference(text_of(old).split()[-1], text_of(new).split()[-1], near)


def tagged(cell, tag):
    """Does the cell carry the tag?"""
    return tag in cell["metadata"].get("tags", [])


def kept(path, cell):
    """Are the outputs of `cell` kept? All of the tour's; in a library notebook, of cells tagged 'shown', which run without the others."""
    return cell["cell_type"] == "code" and (path == TOUR or tagged(cell, "shown"))


def again(paths):
    """{path: [(cell, its outputs made anew)]} of the cells of notebooks that keep outputs: one kernel for all, emptied before each
    cell of a library notebook."""
    found, sources = {}, []
    for path in paths:
        found[path] = [cell for cell in read(path)["cells"] if kept(path, cell)]
        empty = "" if path == TOUR else 'get_ipython().run_line_magic("reset", "-sf")\n'
        sources += [empty + cell["source"] for cell in found[path]]
    made = iter(run(sources, ROOT / "nbs") if sources else [])
    return {path: [(cell, next(made)) for cell in cells] for path, cells in found.items()}


def write(path):
    """Make the outputs of the notebook at `path` anew and keep them."""
    notebook, made = read(path), dict((cell["id"], new) for cell, new in again([path])[path])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = made.get(cell["id"], [])
        cell["source"] = cell["source"].splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    for path in [Path(name).resolve() for name in sys.argv[1:]] or with_outputs():
        write(path)

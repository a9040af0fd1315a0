"""Notebooks that keep outputs: the outputs are those that their cells make."""
import base64
import io

import numpy as np
import outputs
import pytest
from PIL import Image

PATHS = outputs.with_outputs()


@pytest.fixture(scope="module")
def anew():
    """{path: [(cell, its outputs made anew)]}, the tour's from one kernel and those of all library notebooks from another."""
    library = [path for path in PATHS if path != outputs.TOUR]
    return outputs.again([outputs.TOUR]) | outputs.again(library)


@pytest.fixture(scope="module")
def same_machine(anew):
    """Does this machine compute, to the last digit, as the one that made the outputs?"""
    cell, new = next((cell, new) for cell, new in anew[outputs.TOUR] if outputs.tagged(cell, "made-with"))
    return outputs.text_of(cell["outputs"]) == outputs.text_of(new)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs_are_those_that_the_cells_make(path, anew, same_machine):
    stale = {}
    for cell, new in anew[path]:
        if outputs.tagged(cell, "made-with"):
            found = outputs.number_difference(cell["outputs"], new)
        else:
            found = outputs.difference(cell["outputs"], new, same_machine, outputs.tagged(cell, "trained"))
        stale |= {cell["id"]: found} if found else {}
    assert not stale, f"make them anew with: python tests/outputs.py {path.relative_to(outputs.ROOT)}"


def test_the_tour_shows_what_it_promises():
    cells = outputs.read(outputs.TOUR)["cells"]
    shown = [cell for cell in cells if cell.get("outputs")]
    assert 12 <= sum(cell["cell_type"] == "code" for cell in cells) <= 18
    assert sum(len(outputs.pictures(cell["outputs"])) for cell in shown) >= 4
    assert sum("text/html" in output.get("data", {}) for cell in shown for output in cell["outputs"]) >= 5


def shows(text):
    return [{"output_type": "stream", "name": "stdout", "text": [text]}]


def pictured(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": ["<PIL>"]}
    return [{"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": None}]


@pytest.mark.parametrize("new, here, elsewhere, trained", [
    ("4 rows, loss 0.693", True, True, True), ("4 rows, loss 0.694", False, True, True), ("4 rows, loss 0.8", False, False, True),
    ("5 rows, loss 0.693", False, False, True), ("9 rows, loss 0.693", False, False, False), ("4 lines, loss 0.693", False, False, False), ("4 rows", False, False, False)])
def test_a_stale_text_is_found(new, here, elsewhere, trained):
    old, new = shows("4 rows, loss 0.693"), shows(new)
    assert (outputs.difference(old, new, same_machine=True) is None) == here
    assert (outputs.difference(old, new, same_machine=False) is None) == elsewhere
    assert (outputs.difference(old, new, same_machine=False, trained=True) is None) == trained


def test_a_stale_picture_is_found():
    grey = np.full((20, 30, 3), 128, np.uint8)
    assert outputs.difference(pictured(grey), pictured(grey), same_machine=True) is None
    assert "levels" in outputs.difference(pictured(grey), pictured(grey + 2), same_machine=True)
    assert outputs.difference(pictured(grey), pictured(grey + 2), same_machine=False) is None
    assert "levels" in outputs.difference(pictured(grey), pictured(grey + 40), same_machine=False)
    assert outputs.difference(pictured(grey), pictured(grey + 40), same_machine=False, trained=True) is None
    assert "pixels" in outputs.difference(pictured(grey), pictured(grey[:10]), same_machine=False, trained=True)
    assert "now" in outputs.difference(pictured(grey), shows("grey"), same_machine=False, trained=True)

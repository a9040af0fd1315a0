"""Figures: the same bytes on every run, pixels untouched, labels that do not meet, nothing dropped."""
import io
import json
import re
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from acgan import figures
from acgan.config import UserError

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import matplotlib; matplotlib.use("Agg")
import torch
from acgan import figures
figures.style()
fig, (a, b) = figures.panels(2)
figures.curves(a, {"one": ([0, 1, 2], [1.0, None, 2.0]), "two": ([0, 1, 2], [1.0, 1.5, 2.0], [0.5, 1, 1.5], [1.5, 2, 2.5])}, "x", "y")
figures.points(b, [("p", 1.0, 0.5, 1.5, "real"), ("q", None, None, None, "fake")], "score")
figures.save_figure(fig, "plot", "quick", "A plot", {"a": [1, None]}, n=3, seeds=[0], provenance={"x": 1})
images = torch.arange(4 * 3 * 64, dtype=torch.int64).reshape(4, 3, 8, 8).remainder(251).to(torch.uint8)
fig = figures.image_grid(images, 2, row_labels=["a", "b"])
figures.save_figure(fig, "grid", "quick", "A grid", {}, n=4, seeds=0, grid=True, provenance={"x": 1})
figures.save_table([{"a": 1.5, "b": "x"}, {"a": None}], "table", "quick", "A table", provenance={"x": 1})
rows = [{"name": "a", "images": images, "values": {"v": 1.0}}, {"name": "b", "images": None, "values": {}}]
figures.class_page(rows, "page", "quick", "A page", "Rows", {"v": ".1f"}, n=4, seeds=0, provenance={"x": 1})
"""


@pytest.fixture(autouse=True)
def closed(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGAN_HOME", str(tmp_path))
    yield
    plt.close("all")


def test_two_processes_write_the_same_bytes(tmp_path, monkeypatch):
    written = []
    for run in ("first", "second"):
        monkeypatch.setenv("ACGAN_HOME", str(tmp_path / run))
        monkeypatch.setenv("PYTHONHASHSEED", "1" if run == "first" else "2")
        subprocess.run([sys.executable, "-c", SCRIPT], check=True)
        written.append({p.name: p.read_bytes() for p in sorted((tmp_path / run / "figures/quick").iterdir())})
    assert written[0] == written[1]
    assert set(written[0]) == {"plot.png", "plot.svg", "plot.json", "grid.png", "grid.json", "table.csv", "table.json", "page.html", "page.json"}
    assert b"Software" not in written[0]["plot.png"] and b"<dc:date>" not in written[0]["plot.svg"]
    assert Image.open(io.BytesIO(written[0]["plot.png"])).size[0] == 1380


@pytest.mark.parametrize("side, columns, count, notes", [(32, 10, 20, ()), (64, 5, 7, ()), (16, 3, 6, ["0.123"] * 6), (128, 10, 10, ())])
def test_grid_pixels_are_the_images_pixels(side, columns, count, notes):
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fig = figures.image_grid(images, columns, notes=notes)
    picture = np.asarray(Image.open(io.BytesIO(figures.picture_bytes(fig, "png"))).convert("RGB"))
    lay = figures.grid_layout(fig, side, count, columns, notes=notes)
    assert picture.shape == (lay["height"], lay["width"], 3)
    found = 0
    for i in range(count):
        y, x = lay["top"] + i // columns * lay["pitch"][1], lay["left"] + i % columns * lay["pitch"][0] + (lay["pitch"][0] - lay["tile"]) // 2
        tile = np.asarray(Image.fromarray(images[i].permute(1, 2, 0).numpy()).resize((lay["tile"],) * 2, Image.NEAREST))
        found += bool((picture[y:y + lay["tile"], x:x + lay["tile"]] == tile).all())
    assert found == count


@pytest.mark.parametrize("names", [["cat"] * 8, ["a very long class name"] * 8, ["Grünspecht & Söhne"] * 8])
def test_labels_do_not_overlap(names):
    images = torch.zeros(16, 3, 16, 16, dtype=torch.uint8)
    fig = figures.image_grid(images, 8, row_labels=["first row", "second"], column_labels=names, notes=["12.5 %"] * 16)
    renderer = fig.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in fig.texts]
    assert len(boxes) == 8 + 2 + 16
    for i, a in enumerate(boxes):
        assert a.x0 >= -1 and a.y0 >= -1 and a.x1 <= fig.bbox.width + 1 and a.y1 <= fig.bbox.height + 1
        assert not any(a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1 for b in boxes[i + 1:])


def test_a_missing_image_is_shown_and_counted():
    fig = figures.image_grid([torch.zeros(3, 8, 8, dtype=torch.uint8), None], 2)
    picture = np.asarray(Image.open(io.BytesIO(figures.picture_bytes(fig, "png"))).convert("L"))
    assert {215, 238} <= set(np.unique(picture))


@pytest.mark.parametrize("images", [torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
                                    [torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 9, 9, dtype=torch.uint8)]])
def test_grids_of_other_things_are_refused(images):
    with pytest.raises(UserError, match="an image grid needs uint8"):
        figures.image_grid(images, 2)


def test_caption_numbers_and_record(tmp_path):
    fig, _ = figures.panels()
    caption = figures.save_figure(fig, "a-figure", "gpu", "Something rises.", {"x": {"y": np.float32(2)}, "z": float("inf")}, n="500 a class",
                                  seeds=range(5), claims=["acgan-4.4-a"], images=type("Set", (), {"name": "cifar10", "fingerprint": "ab"})())
    saved = json.loads((tmp_path / "figures/gpu/a-figure.json").read_text())
    assert caption == saved["caption"] == "Something rises. n = 500 a class; seeds 0 to 4; profile gpu."
    assert saved["numbers"] == {"x": {"y": 2.0}, "z": None} and saved["images"] == {"name": "cifar10", "fingerprint": "ab"}
    assert saved["seeds"] == [0, 1, 2, 3, 4] and saved["title"] == "A figure" and saved["provenance"]["python"]


def git(*words, lines=""):
    """The lines that git prints in the checkout for `words`, with `lines` on its standard input."""
    return subprocess.run(["git", *words], cwd=ROOT, input=lines, capture_output=True, text=True).stdout.splitlines()


def test_pictures_of_a_data_set_are_ignored_by_their_mark():
    tracked = set(git("ls-files", "figures"))
    if not tracked:
        pytest.skip("this is no git checkout")
    read = {path: json.loads((ROOT / path).read_text()) for path in tracked if path.endswith(".json") and (ROOT / path).is_file()}
    drawn = {path: record for path, record in read.items() if isinstance(record, dict) and record.get("kind") in ("figure", "grid")}
    marked = [path[:-5] for path, record in drawn.items() if record.get("contains_data")]
    assert marked, "the sets on real images show some of them"
    pictures = [f"{path}.data.{kind}" for path in marked for kind in ("png", "svg")]
    pages = [f"{path.rpartition('/')[0]}/report.data.html" for path in marked]
    assert set(git("check-ignore", "--stdin", lines="\n".join(pictures + pages))) == {*pictures, *pages}
    assert not tracked & {*pictures, *pages, *(f"{path}.{kind}" for path in marked for kind in ("png", "svg"))}
    assert not [path for path in tracked if path.endswith("/report.html") and any(m.startswith(path[:-11]) for m in marked)]
    plain = {f"{path[:-5]}.png" for path, record in drawn.items() if not record.get("contains_data")}
    assert plain <= tracked, "a picture without the mark is committed with its record"


def test_gitignore_names_no_picture():
    lines = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("figures/")]
    assert [line for line in lines if re.search(r"\.(png|svg|html)$", line)] == []
    assert lines[-1] == "figures/**/" + figures.picture_name("*", "*", contains_data=True)


@pytest.mark.parametrize("label, name", [("quick", "../x"), ("..", "x"), ("a/b", "x"), ("quick", "")])
def test_names_stay_inside_the_folder(label, name):
    fig, _ = figures.panels()
    with pytest.raises(UserError, match="cannot name a figure"):
        figures.save_figure(fig, name, label, "x", {}, n=1, seeds=0)


def test_real_data_is_always_black_and_nothing_else_is():
    assert figures.look("real")["color"] == "#000000"
    assert [name for name, value in figures.COLORS.items() if value == "#000000"] == ["real"]


class Rows(HTMLParser):
    """What a page holds: tags with their attributes, the rows' values, text, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.open, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open += [] if tag in ("meta", "img", "input") else [tag]
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append(dict(attributes).get("data-value"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def gallery(tmp_path, count=4, missing=(1,), **options):
    images = torch.randint(0, 256, (count, 10, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = [{"name": f"class {i} <&\"'>", "images": None if i in missing else x, "values": {} if i in missing else {"accuracy": 10.0 * i, "MS-SSIM": None},
             "flags": ["collapsed"] if i == 2 else []} for i, x in enumerate(images)]
    page = figures.class_page(rows, "gallery", "quick", "All", "Ten of each", {"accuracy": ".1f", "MS-SSIM": ".2f"}, n=30, seeds=0, **options)
    return images, page, Rows(page.read_text())


def test_class_page_is_whole_and_needs_no_network(tmp_path):
    images, page, found = gallery(tmp_path)
    assert found.open == [] and len(found.rows) == 5
    assert [row[2:] for row in found.rows[1:]] == [["0.0", ""], ["", ""], ["20.0", ""], ["30.0", ""]]
    assert found.rows[1][0] == "class 0 <&\"'>" and "collapsed" in found.words and "no trained member" in found.words
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(pictures) == 3 and all(p["loading"] == "lazy" and (p["width"], p["height"]) == ("160", "16") and p["alt"] for p in pictures)
    strip = np.asarray(Image.open(io.BytesIO(b64decode(pictures[0]["src"].split(",")[1]))))
    assert (strip == np.concatenate(images[0].permute(0, 2, 3, 1).numpy(), axis=1)).all()
    text = page.read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r'base64,[^"]+', "", text)) and text.count("aria-sort=") >= 3 and "<button" in text and "<label>" in text
    saved = json.loads(page.with_suffix(".json").read_text())
    assert saved["kind"] == "page" and saved["link"] == "gallery.html" and not (tmp_path / "figures/quick/gallery").exists()


def test_large_class_pages_put_their_strips_beside(tmp_path):
    _, page, found = gallery(tmp_path, count=6, missing=(), limit=1000)
    folder = tmp_path / "figures/quick/gallery"
    assert sorted(p.name for p in folder.iterdir()) == [f"{i:04d}.jpg" for i in range(6)]
    assert all((page.parent / a["src"]).is_file() for tag, a in found.tags if tag == "img") and page.stat().st_size < 20_000
    gallery(tmp_path, limit=1000)
    assert sorted(p.name for p in folder.iterdir()) == ["0000.jpg", "0002.jpg", "0003.jpg"], "strips of the page before are gone"
    gallery(tmp_path)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("side, expected", [(128, 32), (32, 32), (31, 16), (10, 8)])
def test_thumbnails_are_means_over_whole_squares(side, expected):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    small = torch.nn.functional.avg_pool2d(images.double(), 32 // expected).round()
    assert (figures.strip(images, side) == np.concatenate(small.permute(0, 2, 3, 1).numpy(), axis=1)).all()

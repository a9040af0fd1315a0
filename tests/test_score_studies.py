"""The studies of the AM-GAN paper's section 6, cell by cell on a profile of seconds: what they write, and that verdicts on other data stay proxies."""
import json

import pytest
from studies import PROFILE, TINY, study

from acgan import claims

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = PROFILE | {
    "images": PROFILE["images"] | {"n_classes": 4, "per_class": 12},
    "model": {"steps": 4, "n_seeds": 3, "keep_checkpoints": [1, 2, 3], "gan": TINY},
    "classifier": {"name": "resnet20", "epochs": 12, "width": 0.25, "batch": 8, "lr": 0.05},
    "classifier_densenet": {"name": "densenet", "growth": 4, "depth": 10, "epochs": 3, "batch": 8},
    "classifier_foreign": {"epochs": 1, "first": 4, "images": {"name": "blossoms", "n_classes": 9, "per_class": 8}}}


def record(tmp_path, name):
    return json.loads((tmp_path / "figures" / "tiny" / f"{name}.json").read_text())


def test_inception_score(monkeypatch, tmp_path):
    study("02_inception_score", "zhou2018", monkeypatch, tmp_path, SMALL, samples=4, droppings=60, points=12)
    for name in ("amgan_fig3", "amgan_fig4", "amgan_fig5", "amgan_fig8"):
        assert (tmp_path / "figures" / "tiny" / f"{name}.png").is_file() and record(tmp_path, name)["caption"]
    rows = {row["id"]: row for row in claims.table("tiny")}
    assert rows["amgan-6.2-a"]["verdict"] == "inconclusive" and "truck" in rows["amgan-6.2-a"]["why"]
    assert rows["amgan-fig5"]["differs"] == ["droppings: 60 instead of 1000"]
    for claim in ("amgan-6.2-c", "amgan-6.2-d", "amgan-6.4-a", "amgan-6.4-b", "amgan-6.2-b", "amgan-6.3-b"):
        assert rows[claim]["protocol"] == "proxy" and "data: blossoms instead of cifar10" in rows[claim]["differs"], claim
    assert "matched: densenet" not in " ".join(rows["amgan-6.4-b"]["differs"]) and rows["amgan-fig8"]["verdict"] == "not attempted"
    series = record(tmp_path, "amgan_fig3")["numbers"]["series"]
    assert record(tmp_path, "amgan_fig3")["numbers"]["steps"] == [1, 2, 3, 4]
    assert {who: len(some) for who, some in series.items()} == {"samples": 3, "untrained": 3, "noise": 3}


def test_am_score(monkeypatch, tmp_path):
    study("03_am_score", "zhou2018", monkeypatch, tmp_path, SMALL | {"images": SMALL["images"] | {"per_class": 24}}, samples=4, planted=24, draws=3)
    rows = {row["id"]: row for row in claims.table("tiny")}
    for claim in ("amgan-fig6", "amgan-abs-a", "amgan-abs-b"):
        assert rows[claim]["protocol"] == "proxy" and rows[claim]["units"] == 3, claim
    variants = record(tmp_path, "am_variants")["rows"]
    train = [row for row in variants if row["images"] == "training images"]
    assert train[0]["AM score"] == pytest.approx(train[1]["AM score"], abs=1e-3) and train[0]["divergence"] == pytest.approx(0, abs=1e-4)
    cells = record(tmp_path, "score_responses")["numbers"]["cells"]
    assert len(cells) == 3 * 3 * 4 * 4 and {cell["draw"] for cell in cells} == {0, 1, 2}

"""CONTRIBUTING.md: the lines that it shows for an objective, a data set, an analysis and a claim do what it says."""
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

import acgan
from acgan import claims, costs, data, losses, nulls, study
from acgan.config import read_json
from acgan.training import GANConfig

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
pytestmark = pytest.mark.usefixtures("one_thread")


def shown(heading):
    """The fenced blocks below a heading of the page."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)[1]
    return re.findall(r"^```\w+\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def entry(heading, module):
    """(name, value) of the registry's entry that the page shows, read with the names of `module`."""
    (lines,) = shown(heading)
    ((name, value),) = eval(f"{{{lines}}}", vars(module)).items()
    return name, value


@pytest.fixture
def flowers():
    return data.load("blossoms", resolution=32, n_classes=3, per_class=12)


def test_the_objective_trains_and_weighs_as_it_says(monkeypatch, flowers, tmp_path):
    name, objective = entry("Add an objective", losses)
    monkeypatch.setitem(losses.OBJECTIVES, name, objective)
    s, l, c = torch.randn(4), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    whole, half, none = (losses.discriminator_loss(one, (s, l), c, (-s, l), c) for one in ("acgan", name, "acgan*"))
    assert half.item() == pytest.approx((whole + none).item() / 2, rel=1e-5), "acgan* has no class term on fakes in D"
    model = acgan.train(flowers, GANConfig(objective=name, width=0.05, batch=6), steps=1, out=tmp_path)
    assert model.runs[0].step == 1 and model.runs[0].config.changes()["objective"] == name


def test_the_data_set_is_read_and_planned(monkeypatch, tmp_path):
    name, registered = entry("Add a data set", data)
    monkeypatch.setitem(data.DATA_SETS, name, registered)
    monkeypatch.setenv("ACGAN_WORK", str(tmp_path / "work"))
    for split, count in (("train", 3), (registered.test_folders[0], 2)):
        for kind in ("pug", "beagle"):
            for i in range(count):
                path = tmp_path / name / split / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 36), (40 * i, 90, len(split))).save(path)
    train, test = (data.load(name, split, 32, root=tmp_path / name) for split in ("train", "test"))
    assert (len(train), len(test), train.classes) == (6, 4, ["beagle", "pug"])
    assert costs.set_size({"name": name}) == registered.size


def made_analysis():
    """The names that the analysis of the page defines."""
    names = {}
    exec(shown("Add an analysis")[0], names)
    return SimpleNamespace(**names)


def test_the_analysis_measures_draws_and_gives_evidence(flowers, tmp_path):
    brightness = made_analysis()
    dark = data.replace(flowers, images=flowers.images // 2)
    subjects = {"samples": [nulls.of_images(dark)] * 2, "untrained": [nulls.of_images(flowers)], "noise": [nulls.of_images(flowers)]}
    result = brightness.measure(subjects, flowers, per_class=12)
    assert len(result.frame()) == 5 * flowers.n_classes and set(result.frame()["subject"]) == {"real", *subjects}
    assert [len(axes.lines) for axes in result.figure().axes] == [3]
    found = result.evidence()["mine-darker"]
    real = flowers.images.float().mean().item()
    assert float(found.ours) == pytest.approx(real / 2, abs=1) and set(found.nulls) == {"untrained", "noise"}
    assert found.arguments["clusters"] == [0, 0, 0, 1, 1, 1], "trainings are the units"
    result.save(tmp_path)
    assert brightness.Brightness.load(tmp_path) == result


def test_the_claim_is_a_row_of_the_ledger_and_the_study_records_it(monkeypatch, flowers, tmp_path):
    (row,) = shown("Add a claim")
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "claims.yaml").write_text((ROOT / "nbs" / "claims.yaml").read_text().rstrip() + "\n" + row)
    monkeypatch.setenv("ACGAN_HOME", str(tmp_path))
    ledger = claims.ledger()
    assert list(ledger)[-1] == "mine-darker" and ledger["mine-darker"]["headline"].format("5") == "5 grey levels darker"
    assert yaml.safe_load(row.replace("*trained", "{}"))[0]["rule"] == "order"

    subjects = {who: [nulls.of_images(flowers)] for who in ("samples", "untrained", "noise")}
    page = SimpleNamespace(label="mine", subjects=lambda: subjects, images=lambda part="model": flowers,
                           setting=lambda *_, **__: claims.setting(flowers))
    names = vars(made_analysis()) | {"study": page, "publish": study.publish, "per_class": 6}
    exec(shown("Add an analysis")[1], names)
    assert (tmp_path / "figures" / "mine" / "brightness.png").is_file()
    record = read_json(tmp_path / "figures" / "mine" / "claims" / "mine-darker.json")
    assert set(record["nulls"]) == {"untrained", "noise"} and len(record["evidence"]["differences"]) == 3
    assert claims.verdict(ledger["mine-darker"], record)["verdict"] == "inconclusive"

"""The study of AM-GAN's Table 1 on tiny networks: what it writes, and that every claim that it names is in the ledger."""
import json

import pytest

from acgan import claims, presets
from acgan.analyses import dynamic_labels, label_modes, second_data_set, unlabelled
from acgan.config import profile
from acgan.ensemble import part_of
from studies import PROFILE, study

AMGAN = {"steps": 2, "n_seeds": 2, "gan": {"spec": "zhou2018", "width": 0.03, "width_d": 0.05, "z_dim": 4, "batch": 6, "data_init": "real"}}


def cells():
    wanted = {cell for pairs in label_modes.ORDERS.values() for _, *both in pairs for cell in both}
    return wanted | {cell for parts in label_modes.NUMBERS.values() for _, cell, *_ in parts.values()}


@pytest.mark.parametrize("name", ["quick", "cifar10-cpu", "cifar10", "gpu", "paper"])
def test_every_profile_trains_every_cell_that_a_claim_asks_for(name):
    variants = part_of(profile(name), "amgan_table")["variants"]
    assert cells() == set(variants)
    for cell, gan in variants.items():
        fixed = "predefined" in cell
        assert ("spec" in gan) == (fixed and "D of dynamic" not in cell), cell
        if gan["objective"] not in ("gan", "gan*", "labelgan"):
            assert (gan.get("labels") == "dynamic") != fixed, cell


def test_claims_of_the_table_are_in_the_ledger():
    rows = claims.ledger()
    for claim in (*label_modes.ORDERS, *label_modes.NUMBERS):
        assert rows[claim]["trained"] == "amgan_table", claim
    for claim, parts in label_modes.NUMBERS.items():
        assert set(parts) == set(rows[claim]["published"]) - {"real data"}, claim


@pytest.mark.usefixtures("one_thread")
def test_study_of_table_1(monkeypatch, tmp_path):
    variants = {who: gan for who, gan in part_of(profile("quick"), "amgan_table")["variants"].items()
                if who in ("GAN dynamic", "GAN* dynamic", "AM-GAN dynamic", "AM-GAN predefined", "AM-GAN predefined, D of dynamic")}
    study("04_table1", "zhou2018", monkeypatch, tmp_path, PROFILE | {"amgan_table": AMGAN | {"variants": variants}}, per_class=8, pairs=4)
    folder, made = tmp_path / "figures" / "tiny", claims.records("tiny")
    assert set(made) >= {"amgan-5.1-a", "amgan-5.1-b", "amgan-7.1.1-a", "amgan-7.1.4-b", "amgan-7.1.4-e", "amgan-7.1.2-f"}
    assert set(made["amgan-5.1-a"]["nulls"]) == {"untrained", "noise"}
    assert made["amgan-5.1-a"]["setting"]["changes"]["width"] == 0.03 and "spec" not in made["amgan-5.1-a"]["setting"]["changes"]
    rows = json.loads((folder / "amgan_table1_rows.json").read_text())["rows"]
    assert sorted(row["model"] for row in rows) == ["AM-GAN", "AM-GAN", "AM-GAN, D of dynamic", "GAN", "GAN*"]
    assert claims.verdict(claims.ledger()["amgan-7.1.2-f"], made["amgan-7.1.2-f"])["outcome"] == "agrees"
    assert (folder / "amgan_table1.png").is_file()


@pytest.mark.usefixtures("one_thread")
def test_study_of_learning_curves(monkeypatch, tmp_path):
    variants = {who: gan for who, gan in part_of(profile("quick"), "amgan_table")["variants"].items()
                if who in [f"{name} dynamic" for name in ("AM-GAN", "LabelGAN", "AC-GAN*+", "AC-GAN*", "GAN*", "GAN")] or who == "GAN predefined"}
    part = AMGAN | {"steps": 4, "keep_checkpoints": [1, 2], "variants": variants}
    study("05_learning_curves", "zhou2018", monkeypatch, tmp_path, PROFILE | {"amgan_table": part}, per_class=3, groups=2)
    folder, made = tmp_path / "figures" / "tiny", claims.records("tiny")
    assert {f"amgan-7.1.6-{letter}" for letter in "abcd"} <= set(made)
    assert len(made["amgan-7.1.6-a"]["evidence"]["differences"]) == 6 * 2, "one of every training of every model"
    assert set(made["amgan-7.1.6-b"]["nulls"]) == {"untrained", "noise"}
    sheets = sorted(path.stem for path in folder.glob("amgan_fig*.png"))
    assert {"amgan_fig7", "amgan_fig9", "amgan_fig17", "amgan_fig18"} <= set(sheets) and "amgan_fig10" not in sheets
    assert made["amgan-fig9-18"]["evidence"]["wrong"] == ["Figure 10", "Figure 12", "Figure 14", "Figure 16"]
    assert claims.verdict(claims.ledger()["amgan-fig9-18"], made["amgan-fig9-18"])["outcome"] != "agrees"


@pytest.mark.parametrize("name", ["quick", "tiny", "gpu", "paper"])
def test_profiles_with_a_second_data_set_train_every_cell(name):
    part = part_of(profile(name), "amgan_tiny")
    assert set(part["variants"]) == set(second_data_set.CELLS)
    about = profile(name)["images"] | part["images"]
    assert about["resolution"] == 32 and (about["name"] == "tiny-imagenet") == (name != "quick"), "64 pixels become 32 in the paper"
    for cell, gan in part["variants"].items():
        assert gan == part_of(profile(name), "amgan_table")["variants"][cell], "as on the first data set"


@pytest.mark.usefixtures("one_thread")
def test_study_of_the_second_data_set(monkeypatch, tmp_path):
    variants = part_of(profile("quick"), "amgan_tiny")["variants"]
    part = AMGAN | {"steps": 1, "n_seeds": 3, "images": {"n_classes": 4}, "variants": variants}
    study("06_second_data_set", "zhou2018", monkeypatch, tmp_path, PROFILE | {"amgan_tiny": part}, per_class=4)
    made, rows = claims.records("tiny"), claims.ledger()
    assert set(made) == {*second_data_set.ORDERS, *second_data_set.NUMBERS}
    for claim, entry in made.items():
        found = claims.verdict(rows[claim], entry)
        assert found["protocol"] == "proxy" and "data: blossoms instead of tiny-imagenet" in found["differs"]
        assert found["outcome"] != "agrees", "networks of one step have no order"
    assert (tmp_path / "figures" / "tiny" / "amgan_tiny.png").is_file()


@pytest.mark.usefixtures("one_thread")
def test_a_profile_without_a_second_data_set_says_so(monkeypatch, tmp_path):
    study("06_second_data_set", "zhou2018", monkeypatch, tmp_path, PROFILE)
    found = {claim: claims.verdict(claims.ledger()[claim], entry)["verdict"] for claim, entry in claims.records("tiny").items()}
    assert set(found.values()) == {"not attempted"} and len(found) == 4


@pytest.mark.usefixtures("one_thread")
def test_study_of_the_discrepancies(monkeypatch, tmp_path):
    variants = {"AM-GAN dynamic": {"objective": "amgan", "labels": "dynamic"}}
    images = PROFILE["images"] | {"per_class": 10}
    study("07_discrepancies", "zhou2018", monkeypatch, tmp_path, PROFILE | {"images": images, "amgan_table": AMGAN | {"variants": variants}},
          batch=8, seeds=1, per_class=3)
    folder, made = tmp_path / "figures" / "tiny", claims.records("tiny")
    rows = json.loads((folder / "amgan_discrepancies.json").read_text())["rows"]
    assert [row["point"] for row in rows] == [row["point"] for row in presets.DISCREPANCIES]
    assert all(any(ch.isdigit() for ch in row["effect"]) or row["effect"].split(":")[0] in ("none", "not measured", "not comparable") for row in rows)
    found = claims.verdict(claims.ledger()["amgan-F"], made["amgan-F"])
    assert found["outcome"] == "same direction" and found["protocol"] == "exact", "all as printed, with choices that the paper leaves open"


@pytest.mark.usefixtures("one_thread")
def test_study_of_labels_from_d(monkeypatch, tmp_path):
    wanted = {dynamic_labels.FREE, dynamic_labels.TOLD} | {f"{who} dynamic" for who in ("LabelGAN", "AC-GAN*+", "AC-GAN*", "GAN*", "GAN")}
    variants = {who: gan for who, gan in part_of(profile("quick"), "amgan_table")["variants"].items() if who in wanted}
    study("08_dynamic_labels", "zhou2018", monkeypatch, tmp_path, PROFILE | {"amgan_table": AMGAN | {"steps": 1, "variants": variants}}, per_class=3, paths=4)
    made = claims.records("tiny")["amgan-5.1-c"]
    assert claims.verdict(claims.ledger()["amgan-5.1-c"], made)["verdict"] in ("inconclusive", "no credit"), "one step makes no classes to cross"
    rows = json.loads((tmp_path / "figures" / "tiny" / "amgan_leads_table.json").read_text())["rows"]
    assert [row["measure"] for row in rows] == ["score"] * 6 + ["kappa"] and all(row["n"] == 2 for row in rows)


@pytest.mark.parametrize("name", ["quick", "cifar10-cpu", "cifar10", "gpu", "paper"])
def test_profiles_train_the_terms_for_images_without_labels(name):
    part = part_of(profile(name), "amgan_unlabelled")
    assert tuple(part["variants"]) == unlabelled.CELLS and part["gan"]["labelled"] < 0.2 and part["n_seeds"] >= 3
    assert [gan["objective"] for gan in part["variants"].values()] == ["amgan", "amgan-semi", "amgan-unsupervised"]


@pytest.mark.usefixtures("one_thread")
def test_study_of_images_without_labels(monkeypatch, tmp_path):
    part = part_of(profile("quick"), "amgan_unlabelled")
    given = {"steps": 1, "n_seeds": 3, "gan": {"width": 0.03, "width_d": 0.05, "z_dim": 4, "batch": 4, "labelled": 0.2}, "variants": part["variants"]}
    study("09_unlabelled", "zhou2018", monkeypatch, tmp_path, PROFILE | {"amgan_unlabelled": given}, per_class=4)
    found = claims.verdict(claims.ledger()["amgan-eq34"], claims.records("tiny")["amgan-eq34"])
    assert found["verdict"] == "inconclusive" and "target: D's likeliest real class instead of not stated" in found["differs"]
    assert set(claims.records("tiny")["amgan-eq34"]["nulls"]) == {"untrained"}

"""Studies of the critique on a profile of a few seconds: what they write, and what they say where something is missing."""
import pytest

from acgan import claims
from studies import PROFILE, TINY, study

GAN = TINY | {"objective": "gan"}
ONE = {"steps": 2, "variants": {"first": {"classes": [0]}, "third": {"classes": [2]}}, "n_seeds": 2, "gan": GAN}


@pytest.mark.usefixtures("one_thread")
def test_study_of_splits(monkeypatch, tmp_path):
    part = {"steps": 2, "classes_per_member": 2, "n_seeds": 2, "gan": TINY}
    parts = {f"split_{kind}": part | {"split_strategy": kind} for kind in ("contiguous", "random", "similar", "dissimilar")}
    names = study("03_split_similarity", "critique", monkeypatch, tmp_path, PROFILE | parts, per_class=4, pairs=4, few=4)
    made = claims.records("tiny")["critique-3"]
    assert set(made["evidence"]["parts"]) == {"MS-SSIM", "accuracy"} and set(made["nulls"]) == {"untrained", "noise"}
    assert len(made["evidence"]["parts"]["accuracy"]["differences"]) == 2
    assert [row["split"] for row in names["rows"]] == ["similar", "contiguous", "random", "dissimilar", "real images"]
    assert (tmp_path / "figures" / "tiny" / "split_similarity.png").is_file()


@pytest.mark.usefixtures("one_thread")
def test_study_of_sizes(monkeypatch, tmp_path):
    parts = {"gan_one_class": ONE, "gan_one_class_half": ONE | {"images": {"per_class": 4}}, "gan_one_class_quarter": ONE | {"images": {"per_class": 2}},
             "gan_ten_classes": {"steps": 2, "images": {"per_class": 3}, "gan": GAN},
             "class_count": {"steps": 2, "class_counts": [2, 3], "n_seeds": 2, "gan": TINY}}
    names = study("04_split_size", "critique", monkeypatch, tmp_path, PROFILE | parts, per_class=4, pairs=4, few=4)
    made = claims.records("tiny")
    assert set(made) == {"critique-21", "critique-22"}, "the other two are Figure 10's"
    assert len(made["critique-21"]["evidence"]["differences"]) == 2 * 2, "a pair a class and seed"
    assert names["counts"] == {"all": 8, "half": 4, "quarter": 2, "few of all": 9}
    assert [set(S.classes) for S in names["together"]] == [set(names["names"])] * 2
    assert {len(run.classes) for S in names["together"] for run in S.runs} == {3}, "two classes do not hold both"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("matched", [False, True])
def test_study_of_the_resolution(monkeypatch, tmp_path, matched):
    parts = {"full_res": {"steps": 2, "n_seeds": 2, "gan": TINY, "images": {"resolution": 64}}}
    parts |= {"half_res_matched": {"steps": 2, "n_seeds": 2, "gan": TINY | {"width": 0.06}}} if matched else {}
    study("09_resolution_controls", "critique", monkeypatch, tmp_path, PROFILE | parts, per_class=4, few=4)
    made = claims.records("tiny")
    assert set(made) == {"critique-16", "critique-17"} and bool(made["critique-16"]["skipped"]) != matched
    assert len(made["critique-17"]["evidence"]["differences"]) == 2


@pytest.mark.usefixtures("one_thread")
def test_study_of_the_classifiers(monkeypatch, tmp_path):
    parts = {"model": {"steps": 2, "n_seeds": 3, "gan": TINY}, "classifier_densenet": {"name": "densenet", "growth": 4, "depth": 10, "epochs": 1, "batch": 8}}
    names = study("10_metric_validity", "critique", monkeypatch, tmp_path, PROFILE | parts, per_class=4, few=4)
    made = claims.records("tiny")
    assert set(made) == {"critique-18", "critique-25"}
    assert names["result"].numbers["judges"] == ["resnet20", "densenet", "linear"]
    assert len(made["critique-18"]["evidence"]["values"]) == 3 * 3 and len(set(made["critique-18"]["evidence"]["clusters"])) == 3
    assert all(len(row) == 3 for row in names["result"].numbers["robust"]["samples"].values())

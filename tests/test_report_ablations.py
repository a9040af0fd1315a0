"""The decisions of the CIFAR-10 report: the profiles' parts are Model 1 with one switch changed,
and the two studies record all of their claims."""
import copy
import shutil

import pytest
import torch
from studies import PROFILE, TINY, study

from acgan.analyses.report_ablations import CONTINUED, PAIRS, rank_of_centre, switches
from acgan.claims import ledger, records, table
from acgan.config import home, profile
from acgan.data import blossoms
from acgan.ensemble import named_members, part_of
from acgan.report_presets import READINGS, report_differences, report_weights
from acgan.training import GANConfig, parent_of, run_config

PROFILES = ["quick", "cifar10-cpu", "cifar10", "gpu", "paper"]
SMALLER = {"width", "width_d", "batch", "lr_g", "lr_d", "continues"}
IMAGES = blossoms(10, 1, 32)


def members(name, part):
    """{setting: [RunConfig, a seed]} of a profile's part."""
    found = {}
    for who, gan in named_members(profile(name), part, IMAGES.classes).items():
        found.setdefault(who.split(", restart")[0], []).append(run_config(gan, IMAGES))
    return found


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_changes_the_switches_of_the_analysis_and_nothing_else(name):
    part = part_of(profile(name), "report_ablations")
    base = GANConfig(**part["gan"])
    weightings = sum(who.startswith("weights ") for who in part["variants"])
    assert weightings >= 4
    assert {who: one or {} for who, one in part["variants"].items()} == switches(base, weightings)
    first = members(name, "report_ablations")["Model 1"][0].gan
    assert set(report_differences(first, "Model 1")) <= SMALLER
    assert part["keep_checkpoints"] == [part["steps"] // 4, part["steps"] // 2]
    assert part["n_seeds"] >= 3, "three pairs are the fewest that the rules can judge"


@pytest.mark.parametrize("name", PROFILES)
def test_pairs_have_one_seed_and_other_seeds_have_none_of_them(name):
    found = members(name, "report_ablations")
    seeds = {who: [config.gan.seed for config in some] for who, some in found.items()}
    assert {who for who, own in seeds.items() if own != seeds["Model 1"]} == {"other seeds"}
    assert not set(seeds["other seeds"]) & set(seeds["Model 1"])


@pytest.mark.parametrize("name", PROFILES)
def test_both_continuations_go_on_from_model_1_with_the_same_rate(name):
    before, after = members(name, "report_ablations")["Model 1"], members(name, "report_continued")
    steps = part_of(profile(name), "report_ablations")["steps"]
    assert list(after) == list(CONTINUED)
    for who, weight in zip(CONTINUED, (10.0, 2.0)):
        assert [parent_of(config).id for config in after[who]] == [one.id for one in before]
        assert {config.gan.continues["step"] for config in after[who]} == {steps}
        assert {config.gan.lr_g for config in after[who]} == {before[0].gan.lr_g / 2}
        assert after[who][0].gan.loss_weights == report_weights(weight)


@pytest.mark.parametrize("name", PROFILES)
def test_no_run_is_shared_with_the_four_models(name):
    """A run that two parts train to different steps has a step that one of them did not ask for."""
    def ids(parts):
        return {config.id for part in parts if part in profile(name)
                for some in members(name, part).values() for config in some}
    ours = ids(["report_ablations", "report_continued"])
    assert not ours & ids(["tay_models", "tay_model_2", "tay_models_quarter"])


@pytest.mark.parametrize("claim", [*PAIRS, "tay-alg1-b", "tay-4-a", "tay-4-b", "tay-4-c"])
def test_the_ledger_names_the_part_that_trains_the_units(claim):
    part = "report_continued" if claim == "tay-3.2-a" else "report_ablations"
    assert ledger()[claim]["trained"] == part
    assert ledger()[claim]["unit"] == "training"


def tiny():
    """A profile of seconds: all switches at two steps, and a grid of three settings."""
    gan = TINY | READINGS["code"] | {"spec": "tay2021-1", "lr_g": 1e-3, "lr_d": 1e-3,
                                     "loss_weights": report_weights(2.0)}
    common = {"n_seeds": 2, "log_every": 1, "checkpoint_every": 4}
    parent = {"step": 4, "lr_g": 1e-3, "lr_d": 1e-3, "loss_weights": report_weights(2.0)}
    after = gan | {"lr_g": 5e-4, "lr_d": 5e-4, "continues": parent}
    weights = {CONTINUED[0]: {"loss_weights": report_weights(10.0)}, CONTINUED[1]: {}}
    return copy.deepcopy(PROFILE) | {
        "report_ablations": common | {"steps": 4, "keep_checkpoints": [1, 2], "gan": gan,
                                      "variants": switches(GANConfig(**gan), 2)},
        "report_continued": common | {"steps": 2, "gan": after, "variants": weights},
        "grid": {"steps": 1, "axes": {"lr_g": [1e-3, 2e-3, 3e-3]}, "gan": TINY}}


def test_the_study_of_decisions_records_each_of_its_claims(monkeypatch, tmp_path):
    names = study("03_decisions", "tay2021", monkeypatch, tmp_path, tiny(), per_class=2, pairs=2,
                  first=2)
    found = records("tiny")
    assert set(found) == {*PAIRS, "tay-alg1-b", "tay-2.2-a", "tay-4-a", "tay-4-b", "tay-4-c"}
    assert found["tay-2.2-a"]["ours"].endswith("of 3 by score")
    assert found["tay-3.2-a"]["setting"]["steps"] == 2
    assert found["tay-4-c"]["setting"]["steps"] == 4
    assert list(names["levels"]) == [1, 2, 4]
    verdicts = {row["id"]: row["verdict"] for row in table("tiny") if row["id"] in found}
    assert verdicts.pop("tay-2.2-a") == "not measurable here"
    assert set(verdicts.values()) == {"inconclusive"}, "two seeds decide nothing"
    nets = [one.networks(one.runs[0])[0].parameters()
            for one in (names["models"]["Model 1"][0], names["at"][4][0])]
    assert all(torch.equal(a, b) for a, b in zip(*nets)), "the last length is the whole training"


def test_identities_are_decided_and_the_resnet_is_left_to_cifar10(monkeypatch, tmp_path):
    study("00_resnet20", "tay2021", monkeypatch, tmp_path, PROFILE, per_class=6, epochs=1,
          trainings=2)
    verdicts = {row["id"]: row for row in table("tiny") if row["id"] in records("tiny")}
    assert {name: row["verdict"] for name, row in verdicts.items()} == {
        "tay-eq1-2": "reproduced", "tay-2.1-b": "reproduced", "tay-alg1-a": "reproduced",
        "tay-2.1-a": "inconclusive"}
    assert "images: 18" in verdicts["tay-2.1-a"]["differs"]
    assert set(verdicts["tay-2.1-a"]["nulls"]) == {"untrained"}


def test_a_tie_does_not_push_the_centre_down():
    grid = [GANConfig(lr_g=a) for a in (1e-4, 2e-4, 3e-4)]
    assert rank_of_centre(grid, [2.0, 2.0, 1.0], ("lr_g",)) == 1
    assert rank_of_centre(grid, [3.0, 2.0, 2.5], ("lr_g",)) == 3


def test_the_review_is_what_is_trained_here(monkeypatch, tmp_path):
    (tmp_path / "nbs" / "profiles").mkdir(parents=True)
    shutil.copy(home() / "nbs" / "profiles" / "paper.yaml", tmp_path / "nbs" / "profiles")
    names = study("00_reading", "critique", monkeypatch, tmp_path, PROFILE)
    assert names["wrong"] == []
    assert records("tiny")["tsang-1"]["evidence"]["compared"] == len(names["facts"])
    asked = {row["claim"] for row in names["questions"]}
    assert asked == {name for name, row in ledger().items() if row["paper"] == "critique"}

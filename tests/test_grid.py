"""Section 4.4's protocol, section 4.6's counts and the ablation: against scipy, and against draws whose answer is known."""
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from acgan import claims
from acgan.analyses.selection import AXES
from acgan.config import UserError, home, profile
from acgan.ensemble import compare_to_baseline, fit_counts, named_members, part_of, parts_in, restarts, select_best
from studies import PROFILE, TINY, study

PROFILES = sorted(path.stem for path in (Path(home()) / "nbs/profiles").glob("*.yaml"))


def halves(groups):
    return {k: (float(np.mean(v)), float(np.std(v))) for k, v in groups.items()}


def test_optimism_is_welchs_interval():
    rng = np.random.default_rng(0)
    first, second = ({k: rng.normal(m, s, n) for k, m, s in (("a", 1, 0.3), ("b", 3, 1.0), ("c", 2, 0.1))} for n in (10, 5))
    found = select_best(halves(first), halves(second))
    theirs = stats.ttest_ind(first["b"], second["b"], equal_var=False).confidence_interval(0.95)
    assert found["chosen"] == "b" and found["interval"] == pytest.approx((theirs.low, theirs.high))
    assert found["optimism"] == pytest.approx(first["b"].mean() - second["b"].mean()) and 1 <= found["rank"] <= 3
    assert found["mean difference"] == pytest.approx(np.mean([first[k].mean() - second[k].mean() for k in first]))


def test_the_chosen_one_is_the_first_of_equals_and_rank_counts_the_better():
    select, report = {"a": (2.0, 0.1), "b": (2.0, 0.1), "c": (1.0, 0.1)}, {"a": (1.0, 0.1), "b": (3.0, 0.1), "c": (2.0, 0.1)}
    found = select_best(select, report)
    assert found["chosen"] == "a" and found["rank"] == 3 and found["optimism"] == 1.0
    same = select_best({"a": (2.0, 0.0)}, {"a": (2.0, 0.0)})
    assert same["interval"] == (0.0, 0.0) and same["rank"] == 1


def test_choosing_among_equals_is_optimistic_as_order_statistics_say():
    rng, many = np.random.default_rng(1), []
    for _ in range(300):
        draw = rng.normal(size=(27, 15))
        many.append(select_best(*(halves(dict(enumerate(part))) for part in (draw[:, :10], draw[:, 10:])))["optimism"])
    top = np.mean(np.max(rng.normal(size=(20_000, 27)), axis=1)) / np.sqrt(10)               # expected maximum of 27 means of ten
    assert np.mean(many) == pytest.approx(top, abs=0.1)


def test_against_base_is_the_pooled_t_interval():
    values = {"base": [1.0, 1.4, 1.1], "up": [2.0, 2.2, 2.3], "down": [0.1, 0.4, 0.2]}
    found = compare_to_baseline(values, "base")
    spread = np.sqrt(np.mean([np.var(v, ddof=1) for v in values.values()]))
    half = stats.t.ppf(1 - 0.05 / 4, 6) * spread * np.sqrt(2 / 3)
    assert list(found) == ["up", "down"]
    for name, (mean, low, high) in found.items():
        assert mean == pytest.approx(np.mean(values[name]) - np.mean(values["base"]))
        assert (low, high) == pytest.approx((mean - half, mean + half))


def test_intervals_hold_for_all_switches_at_once():
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(400):
        found = compare_to_baseline({k: rng.normal(size=3) for k in ["base", *range(12)]}, "base")
        wrong += any(low > 0 or high < 0 for _, low, high in found.values())
    assert wrong <= 0.05 * 400 + 3 * np.sqrt(0.05 * 0.95 * 400)


def test_a_setting_may_have_one_seed_but_not_all():
    assert "lone" in compare_to_baseline({"base": [1.0, 1.1], "lone": [2.0]}, "base")
    with pytest.raises(UserError, match="no 'default' to compare with: a, b"):
        compare_to_baseline({"a": [1.0, 2.0], "b": [1.0]}, "default")


@pytest.mark.parametrize("counts, classes, expected", [([10, 20, 100], 200, [10, 20, 100]), ([10, 20, 100], 50, [5, 10, 50]),
                                                       ([4, 7, 10], 3, [1, 2, 3]), ([2, 3], 1, [1])])
def test_counts_fit_the_set(counts, classes, expected):
    assert fit_counts(counts, classes) == expected


def test_restarts_are_collected_under_their_settings_name():
    part = {"steps": 1, "n_seeds": 2, "axes": {"lr_g": [1e-4, 2e-4], "noise_std": [0.0, 0.1]}}
    settings = {"label": "t", "profile": "t", "grid": part}
    named = named_members(settings, "grid", ["a", "b"])
    E = type("RunSession", (), {"names": list(named), "runs": list(named.values())})
    groups = restarts(E)
    assert len(groups) == 4 and all(len(members) == 2 for members in groups.values())
    assert [m.lr_g for m in groups["lr_g=0.0001, noise_std=0.1"]] == [1e-4, 1e-4]
    assert len({m.seed for m in groups["lr_g=0.0001, noise_std=0.1"]}) == 2


@pytest.mark.parametrize("name", PROFILES)
def test_a_profiles_grid_has_table_2s_shape(name):
    settings = profile(name)
    if "grid" not in parts_in(settings):
        pytest.skip(f"profile {name} trains no grid")
    axes = part_of(settings, "grid")["axes"]
    assert list(axes) == ["lr_g", "lr_d", "noise_std"] and axes["noise_std"] == [0.0, 0.1, 0.2]
    for axis in ("lr_g", "lr_d"):
        assert np.allclose(np.array(axes[axis]) / axes[axis][0], [1, 2, 3])
    assert len(named_members(settings, "grid", list("abcdefghij"))) == 27


@pytest.mark.parametrize("name", PROFILES)
def test_every_part_of_a_profile_makes_members(name):
    settings = profile(name)
    classes = [f"class {k:03d}" for k in range(200)]
    for part in parts_in(settings):
        assert named_members(settings, part, classes), part


@pytest.mark.usefixtures("one_thread")
def test_study_of_the_grid(monkeypatch, tmp_path, capsys):
    axes = {"lr_g": [1e-3, 2e-3], "lr_d": [1e-3], "noise_std": [0.0]}
    parts = {"grid": {"steps": 2, "axes": axes, "gan": TINY}, "split_contiguous": {"steps": 2, "classes_per_member": 2, "n_seeds": 2, "gan": TINY},
             "baseline": {"steps": 2, "variants": {"AC-GAN": {}, "GAN": {"objective": "gan"}}, "n_seeds": 2, "gan": TINY}}
    names = study("06_grid", "odena2017", monkeypatch, tmp_path, PROFILE | parts, group=4, again=1)
    folder, made = tmp_path / "figures" / "tiny", claims.records("tiny")
    assert set(made) >= {"acgan-4.4-a", "acgan-4.4-b", "acgan-4.4-c", "acgan-fig7"}
    assert made["acgan-4.4-b"]["differs"] == ["the earlier model is a GAN without feature matching"]
    rows = json.loads((folder / "grid_table.json").read_text())["rows"]
    assert [[row[axis] for axis in AXES] for row in rows] == [[1e-3, 1e-3, 0.0], [2e-3, 1e-3, 0.0]]
    assert [row["chosen"] for row in rows].count("yes") == 1
    assert min(row[half] for row in rows for half in ("select", "report")) >= 1, "a score is at least 1"
    best = max(rows, key=lambda row: row["select"])
    assert best["chosen"] == "yes", "the choice is that of the samples that select"
    assert f"lr_g={best[AXES[0]]:g}" in names["chosen"]
    assert [run.gan.seed == names["winner"].gan.seed for run in names["more"]] == [False], "another seed at the chosen setting"
    assert {path.stem for path in folder.glob("*.png")} == {"grid_scores", "grid_optimism", "grid_baselines", "fig7_samples"}


@pytest.mark.usefixtures("one_thread")
def test_study_of_the_score(monkeypatch, tmp_path, capsys):
    parts = {"model": PROFILE["model"] | {"keep_checkpoints": [1]}, "splits": {"steps": 2, "classes_per_member": 2, "gan": TINY}}
    names = study("07_inception_score", "odena2017", monkeypatch, tmp_path, PROFILE | parts, group=4)
    folder, made = tmp_path / "figures" / "tiny", claims.records("tiny")
    assert set(made) >= {"acgan-4.4-e"}
    rows = json.loads((folder / "score_table.json").read_text())["rows"]
    assert [row["candidate"] for row in rows] == ["model, step 1", "model, step 2", "class-split ensemble, step 2", "real images, train",
                                                  "real images, test"]
    assert names["splits"].missing == []
    assert len(names["splits"].runs) == 2

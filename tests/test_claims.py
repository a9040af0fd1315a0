"""Rules and intervals against scipy, brute force and formulas written out here; the ledger's own consistency."""
import itertools
import json
import math
from statistics import NormalDist

import numpy as np
import pytest
import yaml
from scipy import stats

from acgan import claims
from acgan.config import UserError, home

LEDGER = claims.ledger()


@pytest.fixture
def project(tmp_path, monkeypatch):
    text = (home() / "nbs" / "claims.yaml").read_text()
    monkeypatch.setenv("ACGAN_HOME", str(tmp_path))
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "claims.yaml").write_text(text)
    return tmp_path


def test_t_interval_is_scipys():
    x = np.random.default_rng(0).normal(3, 2, size=9)
    for level in (0.9, 0.95):
        ours = claims.t_interval(x, level)
        theirs = stats.ttest_1samp(x, 0).confidence_interval(level)
        assert np.allclose(ours, (x.mean(), theirs.low, theirs.high))


def test_bootstrap_covers_at_its_level():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        low, high = claims.bootstrap(rng.exponential(size=60), draws=300, seed=int(rng.integers(1e9)))
        hits += low <= 1 <= high
    assert 0.87 < hits / 200 < 0.99


def test_bootstrap_over_unequal_clusters_resamples_clusters_whole():
    values, clusters = np.array([0.0, 0, 0, 1, 1, 5]), np.array(["a", "a", "a", "b", "b", "c"])
    possible = {np.concatenate([values[clusters == c] for c in pick]).mean() for pick in itertools.product("abc", repeat=3)}
    seen = []
    claims.bootstrap(values, lambda v: seen.append(v.mean()) or v.mean(), clusters=clusters, draws=300)
    assert {round(v, 9) for v in seen} <= {round(v, 9) for v in possible}


def test_bootstrap_is_repeatable():
    x = np.random.default_rng(0).normal(size=30)
    assert claims.bootstrap(x, draws=200, seed=3) == claims.bootstrap(x, draws=200, seed=3) != claims.bootstrap(x, draws=200, seed=4)


def jonckheere(groups):
    """One-sided p of the Jonckheere-Terpstra statistic by its normal approximation without ties."""
    J = sum((np.asarray(b)[None, :] > np.asarray(a)[:, None]).sum() for a, b in itertools.combinations(groups, 2))
    sizes, N = np.array([len(g) for g in groups]), sum(map(len, groups))
    mean = (N**2 - (sizes**2).sum()) / 4
    variance = (N**2 * (2 * N + 3) - (sizes**2 * (2 * sizes + 3)).sum()) / 72
    return 1 - NormalDist().cdf((J - mean) / math.sqrt(variance))


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_trend_p_is_jonckheeres(slope):
    rng = np.random.default_rng(4)
    groups = [rng.normal(slope * i, 1, size=9) for i in range(5)]
    p = float(claims.trend([list(g) for g in groups]).why.split("p = ")[1].split()[0])
    assert p == pytest.approx(jonckheere(groups), rel=0.1, abs=2e-3)


def test_wilson_interval_is_the_formula():
    k, n, z = 74, 100, NormalDist().inv_cdf(0.975)
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert np.allclose(claims.proportion(k, n, 0.74).interval, (centre - half, centre + half))


def test_fisher_is_the_hypergeometric_tail():
    a, n, b, m = 1, 10, 7, 10
    tail = sum(math.comb(n, i) * math.comb(m, a + b - i) for i in range(a + 1)) / math.comb(n + m, a + b)
    assert f"p = {tail:.2g}" in claims.fewer_failures(a, n, b, m).why


def test_roc_area_is_the_share_of_pairs():
    rng = np.random.default_rng(2)
    p, q = rng.integers(0, 6, 23), rng.integers(0, 5, 31)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in p for b in q]
    assert claims.roc_area(p, q) == pytest.approx(sum(pairs) / len(pairs)) and math.isnan(claims.roc_area(p, []))


@pytest.mark.parametrize("value, text", [([8.25, 0.07], "8.25\u00a0±\u00a00.07"), ([0.25, 0], "0.25"), ([-0.4, -0.16], "-0.4 or -0.16"), ({"a": [24, 0]}, "a 24"), (0.5, "0.5")])
def test_published_numbers_as_printed(value, text):
    assert claims.published_text(value) == text


def test_number_needs_five_values_and_both_errors():
    assert claims.number([8.25] * 4, 8.25, 0.07).grade == "D"
    values = [8.00, 8.05, 7.95, 8.02, 7.98]
    mean, low, high = claims.t_interval(values)
    error = math.sqrt((8.25 - mean) ** 2 - ((high - low) / 2) ** 2) / 1.96
    assert claims.number(values, 8.25, error * 1.01).grade == "R" and claims.number(values, 8.25, error * 0.99).grade == "N"
    assert claims.number(values, 8.0, 0.0, ordering={"differences": [-1, -1, -1, -1, -1.1]}).grade == "N"


def test_correlation_with_clusters_is_wider():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(20), 10)
    shift = np.stack([rng.normal(size=20), rng.normal(size=20)])[:, clusters]
    x, y = shift[0] + 0.1 * rng.normal(size=200), shift[1] + 0.1 * rng.normal(size=200)
    free, held = (claims.correlation(x, y, [-0.3], c, draws=500).interval for c in (None, clusters))
    assert held[1] - held[0] > 2 * (free[1] - free[0])


def test_the_gate_lowers_and_never_raises():
    row = LEDGER["acgan-4.4-a"]
    good = {"evidence": {"values": [8.25] * 5}, "gate_met": True, "scaled": "", "seeds": [1, 2, 3, 4, 5]}
    bad = good | {"evidence": {"values": [3.0] * 5}}
    assert claims.verdict(row, good)[0] == "reproduced"
    assert claims.verdict(row, good | {"gate_met": False})[0] == "direction only"
    assert claims.verdict(row, good | {"seeds": [1]})[0] == "direction only"
    assert claims.verdict(row, bad)[0] == claims.verdict(row, bad | {"gate_met": False})[0] == "not reproduced"
    exact = {"evidence": {"error": 1e-12, "draws": 10000}, "gate_met": False, "scaled": "", "seeds": []}
    assert claims.verdict(LEDGER["acgan-eq2-3"], exact)[0] == "reproduced"


def test_parts_are_judged_by_the_worst():
    row = LEDGER["acgan-fig4"]
    evidence = {"parts": {name: {"values": [value[0]] * 5} for name, value in row["published"].items()}}
    assert claims.judge(row, evidence).grade == "R"
    evidence["parts"]["mean, real"] = {"values": [0.5] * 5}
    assert claims.judge(row, evidence).grade == "N"
    del evidence["parts"]["mean, real"]
    with pytest.raises(UserError, match="lacks the part 'mean, real'"):
        claims.judge(row, evidence)


def test_ledger_is_whole():
    assert len(LEDGER) > 200 and {row["paper"] for row in LEDGER.values()} == {"odena2017", "zhou2018", "tay2021", "critique"}
    ids = [f"acgan-fig{i}" for i in (1, 2, 3, 4, 5, 6, 7, 8, 10)] + ["acgan-tab1", "acgan-tab2", "amgan-tab1-is", "tay-tab2-rs", "critique-27"]
    assert set(ids) <= set(LEDGER)
    for row in LEDGER.values():
        assert row["states"].endswith((".", "?", ").")) and len(row["states"]) > 15, row["id"]
        if row["rule"] == "TOST":
            assert row["with"]["margin"] > 0, row["id"]
        if row["rule"] == "LIM":
            assert row["with"].get("R"), row["id"]
        if row["rule"] in ("NUM", "SGN", "PRP", "COR"):
            assert row["published"] is not None or row["impossible"], row["id"]


def test_a_broken_ledger_is_one_line(project):
    path = project / "nbs" / "claims.yaml"
    rows = yaml.safe_load(path.read_text())
    rows["claims"].append(rows["claims"][0])
    path.write_text(yaml.safe_dump(rows))
    with pytest.raises(UserError, match="two rows 'acgan-eq1'"):
        claims.ledger()
    path.write_text("claims: [")
    with pytest.raises(UserError, match="cannot read .*claims.yaml"):
        claims.ledger()


def test_record_keeps_evidence_and_table_shows_it(project):
    claims.record("quick", "acgan-4.4-a", 8.2, evidence={"values": np.array([8.2, 8.25])}, n=25000, seeds=[0, 1], scaled="ResNet-20", note="n.b.")
    claims.record("quick", "acgan-4.1-a", None, impossible="no ImageNet here")
    saved = json.loads((project / "figures/quick/claims/acgan-4.4-a.json").read_text())
    assert saved["evidence"] == {"values": [8.2, 8.25]} and saved["interval"][0] < 8.2 < saved["interval"][1]
    rows = {row["id"]: row for row in claims.table("quick")}
    assert len(rows) == len(LEDGER)
    assert rows["acgan-4.4-a"]["verdict"] == "direction only" and rows["acgan-4.4-a"]["why"].endswith("scaled: ResNet-20; n.b.")
    assert rows["acgan-4.1-a"]["verdict"] == "not measurable here" and rows["acgan-4.1-b"]["verdict"] == "not yet studied"


@pytest.mark.parametrize("arguments, message", [
    ({"evidence": {"values": [float("nan")] * 5}}, "not a number"), ({"evidence": {"wrong": 1}}, "rule NUM"),
    ({}, "needs evidence"), ({"evidence": {"values": [1.0]}, "impossible": "both"}, "needs evidence")])
def test_record_refuses(project, arguments, message):
    with pytest.raises(UserError, match=message):
        claims.record("quick", "acgan-4.4-a", 1, **arguments)
    assert not (project / "figures/quick/claims/acgan-4.4-a.json").exists()

"""Rules, nulls and verdicts: what noise, a wrong number, a right number and too few units must lead to."""
import itertools
import json
import math
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats
import yaml

from acgan import claims, stats
from acgan.config import UserError, home

LEDGER, REAL = claims.ledger(), (home() / "nbs" / "claims.yaml").read_text()
RNG = np.random.default_rng(0)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGAN_HOME", str(tmp_path))
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "claims.yaml").write_text(REAL)
    return tmp_path


def row(rule, **more):
    """A row of the ledger with this rule, on the paper's own protocol."""
    found = {"id": "x", "paper": "p", "where": "S1", "states": "A is so.", "rule": rule, "protocol": {}} | more
    return claims.check_row(found, ["p"])


def entry(evidence, seeds=(1, 2, 3), nulls=None, **facts):
    return {"evidence": evidence, "setting": {"seeds": list(seeds)} | facts, "differs": [], "skipped": "", "undecided": "",
            "nulls": {name: {"ours": "", "evidence": given} for name, given in (nulls or {}).items()}}


def told(rule, evidence, null, seeds=(1, 2, 3), **more):
    """The verdict of a claim whose only null gives `null`."""
    return claims.verdict(row(rule, nulls=["noise"], **more), entry(evidence, seeds, {"noise": null}))["verdict"]


BOTH = {"published": 0.8}
line = np.linspace(-1, 1, 60)
near = (-0.5 * line + 0.75 * np.cos(40 * line)).tolist()
six = np.tile(np.arange(6), 10).tolist()
# rule: (row, right, wrong, too few, what says nothing)
CASES = {
    "number": ({"published": [8.25, 0.07], "tolerance": 0.14}, {"values": [8.2, 8.3, 8.25]}, {"values": [6.0, 6.1, 5.9]}, {"values": [8.25, 8.25]}, {"values": [1.0, 1.0, 1.0]}),
    "order": ({}, {"differences": [0.5, 0.6, 0.55]}, {"differences": [-0.5, -0.6, -0.55]}, {"differences": [0.5, 0.5]}, {"differences": [0.1, -0.2, 0.05]}),
    "share": (BOTH, {"cases": [1] * 80 + [0] * 20, "other": [0] * 20}, {"cases": [0] * 40, "other": [1] * 40, "other_clusters": list(range(40))},
            {"cases": [1], "other": [0]}, {"cases": [0, 1] * 10, "other": [0, 1] * 10}),
    "correlation": ({"published": [-0.4, -0.16]}, {"x": line.tolist(), "y": near, "clusters": six}, {"x": line.tolist(), "y": [-v for v in near], "clusters": six},
            {"x": line[:20].tolist(), "y": near[:20], "clusters": [0, 1] * 10}, {"x": line.tolist(), "y": np.cos(41 * line).tolist(), "clusters": six}),
    "trend": ({}, {"groups": [[1, 1.1, 0.9], [2, 2.1, 1.9], [3, 3.1, 2.9]]}, {"groups": [[3, 3.1, 2.9], [2, 2.1, 1.9], [1, 1.1, 0.9]]},
            {"groups": [[1, 1.1], [2, 2.1], [3, 3.1]]}, {"groups": [[1, 3, 2], [2, 1, 3], [3, 2, 1]]}),
    "equivalence": ({"with": {"margin": 0.2}}, {"differences": [0.01, -0.02, 0.0]}, {"differences": [0.9, 0.95, 1.0]}, {"differences": [0.0, 0.01]}, {"differences": [1.0, -1.0, 0.2]}),
    "limit": ({"with": {"bound": 2, "direction": 1}}, {"values": [2.4, 2.5, 2.6]}, {"values": [0.4, 0.5, 0.45]}, {"values": [2.5, 2.5]}, {"values": [0.1, 5, 2]}),
    "failure_rate": ({}, {"failed": 0, "total": 10, "failed_other": 8, "total_other": 10}, {"failed": 8, "total": 10, "failed_other": 0, "total_other": 10},
            {"failed": 0, "total": 3, "failed_other": 3, "total_other": 3}, {"failed": 5, "total": 10, "failed_other": 5, "total_other": 10}),
}


@pytest.mark.parametrize("rule", CASES)
def test_each_rule_meets_a_right_number_a_wrong_one_too_few_and_a_null(rule):
    more, right, wrong, few, nothing = CASES[rule]
    one = row(rule, **more)
    assert claims.judge(one, right).outcome == "agrees", claims.judge(one, right)
    assert claims.judge(one, wrong).outcome == "disagrees", claims.judge(one, wrong)
    assert claims.judge(one, few).outcome == "inconclusive", claims.judge(one, few)
    assert claims.judge(one, nothing).outcome != "agrees", claims.judge(one, nothing)
    assert told(rule, right, nothing, **more) == "reproduced" and told(rule, wrong, nothing, **more) == "not reproduced"
    assert told(rule, few, nothing, **more) == "inconclusive"
    assert told(rule, right, right, **more) == "no credit", "what noise passes earns nothing"


@pytest.mark.parametrize("rule, evidence, wrong", [("identity", {"error": 1e-12, "draws": 10_000}, {"error": 1e-3, "draws": 10_000}),
                                                   ("as_printed", {"compared": 4}, {"compared": 4, "wrong": ["61 pixels"]})])
def test_identities_and_tables(rule, evidence, wrong):
    one = row(rule, trained=False)
    assert claims.judge(one, evidence).outcome == "agrees" and claims.judge(one, wrong).outcome == "disagrees"
    few = evidence | ({"draws": 100} if rule == "identity" else {"compared": 0})
    assert claims.judge(one, few).outcome == "inconclusive", "a thing that compares nothing cannot agree"
    assert claims.verdict(one, entry(evidence, seeds=()))["verdict"] == "reproduced"
    assert claims.verdict(row("as_printed"), entry({"compared": 3}) | {"differs": ["10 classes"]})["verdict"] == "not attempted"


def test_the_measured_mistakes_of_the_first_edition():
    num = {"published": [8.25, 0.07], "tolerance": 0.14}
    assert claims.judge(row("number", **num), {"values": [1, 15, 3, 20, 2]}).outcome == "inconclusive"
    assert claims.judge(row("number", published=[10.1, 2.0]), {"values": [14.5, 14.4, 14.6]}).outcome == "disagrees", "beyond two errors"
    assert claims.judge(row("limit", **{"with": {"bound": 2, "direction": 1}}), {"value": 2.01, "interval": [0.18, 5.25], "units": 10}).outcome == "inconclusive"
    assert claims.judge(row("share", published=0.847), {"cases": [1]}).outcome == "inconclusive"
    assert claims.judge(row("share", published=0.844), {"cases": [1, 1, 1, 0]}).outcome == "inconclusive"
    assert claims.judge(row("order"), {"differences": [0.1, 0.2, 0.15], "clusters": [0, 0, 0]}).outcome == "inconclusive", "one training"
    looks = {"differences": RNG.normal(1, 0.1, 120).tolist(), "clusters": [0] * 120}
    assert claims.judge(row("order"), looks).units == 1, "ten classes and twelve looks of one run are one unit"


def test_a_proxy_neither_reproduces_nor_refutes():
    one = row("number", published=[7.0, 2.0], protocol={"data": "imagenet", "classes": 1000}, nulls=[])
    drawn = {"data": "blossoms", "classes": 10}
    found = claims.verdict(one, entry({"values": [20.0, 21, 19]}, **drawn))
    assert (found["protocol"], found["outcome"], found["verdict"]) == ("proxy", "inconclusive", "inconclusive")
    ordering = {"ordering": {"differences": [5.0, 6, 5.5]}}
    assert claims.verdict(one, entry({"values": [20.0, 21, 19]} | ordering, **drawn))["verdict"] == "supported by a proxy"
    ordering = {"ordering": {"differences": [-5.0, -6, -5.5]}}
    assert claims.verdict(one, entry({"values": [20.0, 21, 19]} | ordering, **drawn))["verdict"] == "contradicted by a proxy"
    width = claims.verdict(one, entry({"values": [7.1, 7.2, 6.9]}, data="imagenet", classes=1000, changes={"width": 0.5}))
    assert width["verdict"] == "supported by a proxy" and width["differs"] == ["width 0.5"], "same scale, other network"


@pytest.mark.parametrize("outcome, nulls", list(itertools.product(claims.OUTCOMES, [{}, {"noise": "agrees"}, {"noise": "inconclusive"}])))
def test_no_proxy_says_reproduced_or_not_reproduced(outcome, nulls):
    for one in (row("order"), row("order", nulls=["noise"]), row("number", published=1.0, nulls=[])):
        word, _ = claims.words(one, claims.Outcome(outcome), "proxy", nulls, entry({}))
        assert word in ("supported by a proxy", "contradicted by a proxy", "inconclusive", "no credit")


def test_three_seeds_are_the_least_for_reproduced():
    one, good = row("order", nulls=[]), {"differences": [0.5, 0.6, 0.55]}
    assert claims.verdict(one, entry(good, seeds=[1, 2]))["verdict"] == "direction only"
    assert claims.verdict(one, entry(good, seeds=[1, 1, 1]))["verdict"] == "direction only", "one seed named thrice"
    assert claims.verdict(one, entry(good))["verdict"] == "reproduced"
    assert claims.verdict(row("order", trained=False), entry(good, seeds=[]))["verdict"] == "reproduced"
    assert claims.verdict(row("order"), entry(good))["verdict"] == "no credit", "nobody has looked at the nulls"


def test_what_is_given_comes_first():
    one = row("order", nulls=[])
    good, blind = ({"what": "recognised", "values": values, "above": 0.1} for values in ([0.5, 0.6, 0.55], [0.1, 0.1, 0.1]))
    assert claims.judge(one, {"differences": [0.5, 0.6, 0.55], "given": good}).outcome == "agrees"
    assert claims.judge(one, {"differences": [0.5, 0.6, 0.55], "given": blind}).outcome == "inconclusive"
    assert claims.judge(one, {"differences": [-0.5, -0.6, -0.55], "given": blind}).outcome == "inconclusive", "nor is it evidence against"


@pytest.mark.parametrize("rule, make", [("order", lambda x: {"differences": x}), ("equivalence", lambda x: {"differences": x + 0.5}), ("limit", lambda x: {"values": x})])
def test_how_often_a_rule_is_wrong_under_noise(rule, make):
    more = {"order": {}, "equivalence": {"with": {"margin": 0.5}}, "limit": {"with": {"bound": 0}}}[rule]
    rng, hits = np.random.default_rng(1), {"agrees": 0, "disagrees": 0}
    for _ in range(400):                                                                        # 4 trainings of 10 classes that share a mean
        x = (rng.normal(size=(4, 1)) + 0.3 * rng.normal(size=(4, 10))).ravel()
        found = claims.judge(row(rule, **more), make(x) | {"clusters": np.repeat(np.arange(4), 10).tolist()}).outcome
        hits[found] = hits.get(found, 0) + 1
    assert max(hits["agrees"], hits["disagrees"]) < 0.06 * 400, hits


def test_correlation_over_few_trainings_is_not_fooled_by_many_classes():
    rng, wrong = np.random.default_rng(2), 0
    clusters = np.repeat(np.arange(6), 10)
    for _ in range(300):
        x, y = (rng.normal(size=6)[clusters] + 0.3 * rng.normal(size=60) for _ in range(2))
        wrong += claims.judge(row("correlation", published=[-0.4]), {"x": x, "y": y, "clusters": clusters}).outcome != "inconclusive"
    assert wrong < 0.15 * 300, wrong


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


def test_trend_of_one_network_through_sizes_is_pages():
    table = [[1, 2, 3, 4], [1, 3, 2, 4], [2, 1, 3, 4]]
    p = float(claims.trend(series=table).why.split("p = ")[1].split()[0])
    assert p == pytest.approx(scipy.stats.page_trend_test(table).pvalue, rel=0.01)


def test_fisher_is_the_hypergeometric_tail():
    a, n, b, m = 1, 10, 7, 10
    tail = sum(math.comb(n, i) * math.comb(m, a + b - i) for i in range(a + 1)) / math.comb(n + m, a + b)
    assert f"p = {tail:.2g}" in claims.fewer_failures(a, n, b, m).why


def test_jackknife_of_shares_and_bootstrap_keep_clusters_whole():
    cases, clusters = [1] * 10 + [0] * 10, [0] * 10 + [1] * 10
    assert stats.share_interval(cases, clusters)[3] == 2 and stats.share_interval([1] * 30)[1] < 0.9
    values = np.arange(6.0)
    possible = {np.concatenate([values[2 * c:2 * c + 2] for c in pick]).mean() for pick in itertools.product(range(3), repeat=3)}
    seen = []
    stats.bootstrap(values, lambda v: seen.append(v.mean()) or v.mean(), clusters=[0, 0, 1, 1, 2, 2], draws=300)
    assert {round(v, 9) for v in seen} <= {round(v, 9) for v in possible}


def test_roc_area_is_the_share_of_pairs():
    rng = np.random.default_rng(2)
    p, q = rng.integers(0, 6, 23), rng.integers(0, 5, 31)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in p for b in q]
    assert stats.roc_area(p, q) == pytest.approx(sum(pairs) / len(pairs)) and math.isnan(stats.roc_area(p, []))


@pytest.mark.parametrize("value, text", [([8.25, 0.07], "8.25\u00a0±\u00a00.07"), ([0.25, 0], "0.25"), ([-0.4, -0.16], "-0.4 or -0.16"), ({"a": [24, 0]}, "a 24"), (0.5, "0.5")])
def test_published_numbers_as_printed(value, text):
    assert claims.published_text(value) == text


def test_parts_are_judged_by_the_worst_and_share_the_error():
    one = LEDGER["acgan-fig4"]
    evidence = {"parts": {name: {"values": [value[0]] * 3} for name, value in one["published"].items()}}
    assert claims.judge(one, evidence).outcome == "agrees"
    evidence["parts"]["mean, real"] = {"values": [0.5] * 3}
    assert claims.judge(one, evidence).outcome == "disagrees"
    del evidence["parts"]["mean, real"]
    with pytest.raises(UserError, match="lacks the part 'mean, real'"):
        claims.judge(one, evidence)
    edge = {"differences": [-1.0, -0.9, -1.1, 0.1, -1.2]}                                        # below 0 at 5 %, not at 1 %
    assert claims.judge(row("order"), edge).outcome == "disagrees"
    assert claims.judge(row("order"), {"parts": {str(i): edge for i in range(5)}}).outcome == "inconclusive"


def test_ledger_is_whole():
    assert len(LEDGER) > 200 and {one["paper"] for one in LEDGER.values()} == {"odena2017", "zhou2018", "tay2021", "critique"}
    ids = [f"acgan-fig{i}" for i in (1, 2, 3, 4, 5, 6, 7, 8, 10)] + ["acgan-tab1", "acgan-tab2", "amgan-tab1-is", "tay-tab2-rs", "critique-27"]
    assert set(ids) <= set(LEDGER)
    for one in LEDGER.values():
        assert one["states"].endswith((".", "?", ").")) and len(one["states"]) > 15, one["id"]
        wanted = {"equivalence": one["with"].get("margin", 0) > 0, "limit": "bound" in one["with"], "figure": bool(one["follows"]),
                  "correlation": one["published"] is not None or one["with"].get("sign")} | dict.fromkeys(("number", "share"), one["published"] is not None)
        assert one["impossible"] or wanted.get(one["rule"], True), one["id"]
        if one["paper"] == "odena2017" and one["trained"] and not one["impossible"] and one["rule"] not in ("identity", "as_printed", "figure"):
            assert one["protocol"], f"{one['id']} cannot be met exactly: its protocol is not written down"


def test_a_broken_ledger_is_one_line(project):
    path = project / "nbs" / "claims.yaml"
    rows = yaml.safe_load(path.read_text())
    rows["claims"].append(rows["claims"][0])
    path.write_text(yaml.safe_dump(rows))
    with pytest.raises(UserError, match="two rows 'acgan-eq1'"):
        claims.ledger()
    rows["claims"][-1] = rows["claims"][0] | {"id": "new", "follows": ["nothing"]}
    path.write_text(yaml.safe_dump(rows))
    with pytest.raises(UserError, match="new: follows 'nothing'"):
        claims.ledger()
    path.write_text("claims: [")
    with pytest.raises(UserError, match="cannot read .*claims.yaml"):
        claims.ledger()


def test_record_keeps_evidence_and_the_table_keeps_columns_apart(project):
    nulls = {name: ("1.0", {"values": [1.0, 1.0, 1.0]}) for name in ("untrained", "noise")}
    exact = {"data": "cifar10", "classes": 10, "pixels": 32, "steps": 50_000, "samples": 25_000, "classifier": "inception-2015", "seeds": [1, 2, 3]}
    claims.record("one", "acgan-4.4-a", 8.2, evidence={"values": np.array([8.2, 8.25, 8.22])}, n=25000, setting=exact, nulls=nulls, note="n.b.")
    claims.record("two", "acgan-4.4-a", 3.0, evidence={"values": [3.0, 3.1, 2.9]}, setting=exact | {"data": "blossoms"}, nulls=nulls)
    claims.record("two", "acgan-4.1-f", None, skipped="one size")
    saved = json.loads((project / "figures/one/claims/acgan-4.4-a.json").read_text())
    assert saved["evidence"] == {"values": [8.2, 8.25, 8.22]} and saved["nulls"]["noise"]["ours"] == "1.0"
    one, two = ({found["id"]: found for found in claims.table(label)} for label in ("one", "two"))
    assert len(one) == len(LEDGER)
    assert one["acgan-4.4-a"]["verdict"] == "reproduced" and one["acgan-4.4-a"]["ours"] == 8.2 and one["acgan-4.4-a"]["proxy"] is None
    assert two["acgan-4.4-a"]["verdict"] == "inconclusive" and two["acgan-4.4-a"]["proxy"] == 3.0 and two["acgan-4.4-a"]["ours"] is None
    assert one["acgan-4.4-a"]["nulls"]["noise"] == {"ours": "1.0", "outcome": "disagrees"}
    assert two["acgan-4.1-f"]["verdict"] == two["acgan-4.1-f"]["protocol"] == "not attempted" and one["acgan-4.1-f"]["verdict"] == "not yet studied"
    keys = {"id", "paper", "place", "states", "protocol", "differs", "outcome", "verdict", "rule", "tolerance", "units", "power", "published", "ours", "interval",
            "nulls", "evidence", "note"}
    assert keys <= set(one["acgan-4.4-a"])
    file = json.loads(claims.save_ledger("two").read_text())
    assert file["counts"]["protocol"] == {"exact": 0, "proxy": 1, "not attempted": 1}


def test_a_picture_is_what_it_shows(project):
    claims.record("x", "acgan-4.4-b", "", undecided="nothing")
    assert claims.record("x", "acgan-fig7", "").startswith("acgan-fig7: inconclusive")
    rows = {one["id"]: one for one in claims.table("x")}
    assert rows["acgan-fig7"]["why"] == "acgan-4.4-b inconclusive" and rows["acgan-fig8"]["verdict"] == "not yet studied"


@pytest.mark.parametrize("arguments, message", [
    ({"evidence": {"values": [float("nan")] * 5}}, "not a number"), ({"evidence": {"wrong": 1}}, "rule number"),
    ({}, "needs evidence"), ({"evidence": {"values": [1.0]}, "skipped": "both"}, "needs evidence")])
def test_record_refuses(project, arguments, message):
    with pytest.raises(UserError, match=message):
        claims.record("quick", "acgan-4.4-a", 1, **arguments)
    assert not (project / "figures/quick/claims/acgan-4.4-a.json").exists()

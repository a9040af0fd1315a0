"""A small chain of real studies, run twice: byte-identical, and `acgan verify` tells an untouched set from an edited one."""
import json
import shutil
from pathlib import Path

import pytest
import yaml

from acgan import cli, runner, stages, verify
from acgan.config import read_json

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"width": 0.05, "width_d": 0.06, "z_dim": 4, "batch": 8, "dropout": 0.0, "noise_std": 0.0, "lr_g": 1e-3, "lr_d": 1e-3}
PROFILE = {"images": {"name": "blossoms", "resolution": 32, "n_classes": 3, "per_class": 30, "root": None},
           "model": {"steps": 210, "n_seeds": 2, "log_every": 50, "probe_every": 100, "checkpoint_every": 210, "gan": SMALL},
           "splits": {"steps": 5, "classes_per_member": 2, "gan": SMALL},
           "classifier": {"name": "resnet20", "epochs": 1, "width": 0.25, "batch": 16},
           "semi_supervised": {"steps": 4, "axes": {"labelled": [0.5, 1.0], "objective": ["acgan", "classifier"]}, "n_seeds": 4, "checkpoint_every": 4, "gan": SMALL},
           "stages": {"semi_supervised": {"per_class": 10, "score_n": 10}, "samples": {"per_class": 12}, "latent": {"n_paths": 12, "n_rows": 6}}}
IDS = ("training", "samples", "latent", "semi_supervised", "report")


def make(home, patch, jobs):
    """Run the small chain in a checkout of its own; returns its figures."""
    for name in ("nbs", "figures"):
        (home / name).mkdir(parents=True)
    for paper in ("odena2017", "zhou2018", "tay2021", "critique"):
        shutil.copytree(ROOT / "nbs" / paper, home / "nbs" / paper, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("claims.yaml", "report.ipynb"):
        shutil.copy(ROOT / "nbs" / name, home / "nbs")
    (home / "nbs" / "profiles").mkdir()
    (home / "nbs" / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(PROFILE))
    patch.setenv("ACGAN_HOME", str(home))
    patch.setenv("ACGAN_WORK", str(home / "data"))
    runner.run(stages.make_job("tiny"), only=IDS, say=lambda *_, **__: None, jobs=jobs)
    return home / "figures" / "tiny"


@pytest.mark.parametrize("path", sorted((ROOT / "figures").glob("*/claims.json")), ids=lambda p: p.parent.name)
def test_a_committed_ledger_is_what_its_records_and_todays_rules_give(path, monkeypatch):
    monkeypatch.setenv("ACGAN_HOME", str(ROOT))
    assert verify.check_verdicts(path.parent.name).answer == "holds"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield [make(tmp_path_factory.mktemp("home") / "acgan", patch, jobs) for jobs in (1, 2)]


def without_provenance(value):
    """A record without what says when and how fast it was made."""
    if isinstance(value, dict):
        return {key: without_provenance(part) for key, part in value.items() if key != "provenance"}
    return [without_provenance(part) for part in value] if isinstance(value, list) else value


def test_two_runs_agree_byte_for_byte(sets):
    names = [sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) for folder in sets]
    assert names[0] == names[1] and sum(name.endswith(".png") for name in names[0]) >= 8 and "claims.json" in names[0]
    for name in names[0]:
        one, two = (folder / name for folder in sets)
        if name in ("report.html", "inputs.json"):                                              # they hold seconds, and hashes of files that do
            continue
        if name.endswith(".json"):
            assert without_provenance(read_json(one)) == without_provenance(read_json(two)), name
        else:
            assert one.read_bytes() == two.read_bytes(), name


def test_verdicts_of_a_set_that_learnt_nothing_claim_nothing(sets):
    rows = [row for row in read_json(sets[0] / "claims.json")["rows"] if row["studied"] and row["rule"] not in ("identity", "as_printed")]
    assert len(rows) >= 4 and {row["verdict"] for row in rows} <= {"inconclusive", "no credit", "not attempted", "not measurable here"}, rows


def test_every_claim_about_samples_was_put_to_its_nulls(sets):
    rows = {row["id"]: row for row in read_json(sets[0] / "claims.json")["rows"] if row["studied"]}
    for name in ("acgan-fig1", "acgan-4.5-b", "acgan-4.5-d"):
        assert {"untrained", "noise"} <= set(rows[name]["nulls"]) and rows[name]["protocol"] == "proxy" and rows[name]["ours"] is None, name
    assert rows["acgan-4.5-b"]["nulls"]["stored"]["outcome"] == "inconclusive" and "width 0.05" in rows["acgan-4.5-b"]["differs"]


def test_verify_holds_and_finds_what_was_touched(sets, monkeypatch, capsys):
    home = sets[1].parents[1]
    monkeypatch.setenv("ACGAN_HOME", str(home))
    monkeypatch.setenv("ACGAN_WORK", str(home / "data"))
    assert cli.main(["verify", "tiny", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert ", run " in said and "200 steps again in" in said and "differs" not in said and "not checked" not in said
    picture, record = next(sets[1].glob("*.png")), sets[1] / "claims" / "acgan-4.5-b.json"
    kept = {path: path.read_bytes() for path in (picture, record)}
    picture.write_bytes(picture.read_bytes() + b"\0")
    record.write_text(json.dumps(read_json(record) | {"undecided": "somebody's opinion"}))
    found = {check.what: check for check in verify.verify("tiny", device="cpu")}
    assert picture.name in found["files"].text and found["verdicts"].answer == "differs" and "acgan-4.5-b" in found["verdicts"].text
    assert cli.main(["verify", "tiny", "--device", "cpu"]) == 1
    for path, content in kept.items():
        path.write_bytes(content)
    assert cli.main(["verify", "tiny", "--device", "cpu"]) == 0

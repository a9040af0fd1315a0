"""What training costs: against published arithmetic, torch's own counter, real files and a real process; the plan as text and as JSON."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from acgan import cli, costs
from acgan.config import UserError, home, profile
from acgan.training import GANConfig, RunConfig, build, filled

HOME = str(home())
FULL = {32: 98.4, 64: 681.9, 128: 2727.5}                          # GFLOP a step of batch 100, ten classes: own arithmetic from Tables 1 and 2
HALF = {32: (49.3, 49.1), 64: (269.2, 412.7), 128: (1076.8, 1650.7)}  # D's step, G's step


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGAN_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("ACGAN_HOME", HOME)
    return tmp_path / "work"


@pytest.mark.parametrize("resolution", FULL)
def test_the_arithmetic_of_a_step(resolution):
    one = costs.facts_of(GANConfig(), resolution, 10)
    assert one["flop"] / 1e9 == pytest.approx(FULL[resolution], rel=0.005)
    silent = costs.facts_of(GANConfig(objective="classifier"), resolution, 10)
    assert silent["flop"] / 1e9 == pytest.approx(HALF[resolution][0], rel=0.005)


@pytest.mark.parametrize("resolution, member", [(32, {}), (64, {"width": 0.5}), (128, {}), (32, {"spec": "tay2021-1"}), (32, {"label_input": "cbn"}), (32, {"objective": "gan"})])
def test_torchs_own_counter_agrees(resolution, member):
    config = RunConfig(filled(GANConfig(**member), resolution), tuple(range(7)), {"resolution": resolution})
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        G, D = build(config)
        z, c, x = torch.zeros(100, G.z_dim), torch.zeros(100, dtype=torch.int64), torch.zeros(100, 3, resolution, resolution)
        with torch.no_grad():
            X_fake = G(z, c)
        sum(part.sum() for half in (D(x), D(X_fake)) for part in half).backward()
        D.requires_grad_(False)
        sum(part.sum() for part in D(G(z, c))).backward()
    share = counter.get_total_flops() / costs.facts_of(GANConfig(**member), resolution, 7)["flop"]
    assert 0.995 < share < 1.03, "a layer may multiply some zeros, and nothing may be forgotten"


def test_sizes_of_known_sets_are_those_of_the_sets():
    assert costs.set_size({"name": "imagenet", "n_classes": None, "per_class": None}) == (1000, 1_281_167, 50_000)
    assert [costs.set_size({"name": name})[0] for name in ("cifar10", "tiny-imagenet", "imagenette", "blossoms")] == [10, 200, 10, 10]
    assert costs.set_size({"name": "cifar10", "per_class": 50}) == (10, 500, 500)


def test_a_folder_is_counted_by_its_names(tmp_path):
    for name, n in (("train/a", 3), ("train/b", 4), ("test/a", 2), ("test/b", 2)):
        (tmp_path / name).mkdir(parents=True)
        for i in range(n):
            (tmp_path / name / f"{i}.png").write_bytes(b"not even an image")
    assert costs.set_size({"name": str(tmp_path)}) == (2, 7, 4)


def test_the_paper_without_imagenet(work):
    plan = costs.plan_costs(profile("paper"), "cpu")
    parts = {row["part"]: row for row in plan["parts"]}
    assert not [row for row in plan["parts"] if "error" in row]
    at = {(row["pixels"][0], len(row["members"]), tuple(row["classes"])) for row in plan["parts"]}
    assert {(128, 100, (10,)), (64, 100, (10,)), (32, 27, (10,))} <= at, "100 + 100 members of ten classes, and the grid"
    assert parts["class_count"]["classes"] == list(range(10, 101, 10)) and len(parts["class_count"]["members"]) == 90
    ensemble = parts["splits"]
    assert ensemble["steps"] == 50_000 and ensemble["flop"] == pytest.approx(100 * 50_000 * 2727.5e9, rel=0.005)
    assert parts["grid"]["flop_a_step"] == pytest.approx(98.4e9, rel=0.005)
    whole = max(one["bytes"] for one in plan["images"] if (one["name"], one["pixels"]) == ("imagenet", 128))
    assert whole == 1_331_167 * 3 * 128 * 128, "some parts see a share of the images, others all"
    assert plan["total"]["members"] < sum(len(row["members"]) for row in plan["parts"]), "the same networks in two parts count once"
    assert plan["total"]["flop"] == pytest.approx(sum(row["flop"] for row in plan["parts"])) and plan["total"]["left"] == plan["total"]["seconds"] > 0
    text = costs.text_of(plan)
    assert max(map(len, text)) <= 120 and "estimate" in " ".join(text) and json.loads(json.dumps(plan)) == plan
    assert ["acgan-4.2-d", 1, 6] in plan["undecidable"] and "too few trainings to decide" in " ".join(text)


def test_the_pieces_of_the_gpu_profile(work):
    settings = profile("gpu")
    plan = costs.plan_costs(settings, "cpu", words=" --data-root D")
    assert not [row for row in plan["parts"] if "error" in row]
    pieces, minutes = plan["pieces"], settings["plan"]["minutes"]
    assert minutes < 9 and all(piece["seconds"] <= 0.9 * 60 * minutes * piece["times"] for piece in pieces)
    assert sum(piece["seconds"] for piece in pieces) <= 5.5 * 3600, "training must leave the studies half an hour of six"
    assert [piece["part"] for piece in pieces if piece["part"] in ("grid", "full_res", "splits")][0] == "grid"
    for row in plan["parts"]:
        mine = [piece for piece in pieces if piece["part"] == row["part"]]
        covered = [i for piece in mine for i in range(piece["first"], piece["last"] + 1)]
        assert covered == list(range(1, len(row["members"]) + 1)), f"{row['part']}: {covered}"
    assert "estimate" in plan["machine"] or "nothing was measured" in plan["machine"]
    for piece in pieces:
        words = piece["command"].split()
        assert words[0] == "acgan" and words[-2:] == ["--data-root", "D"]
        assert cli.parser().parse_args(words[1:]).minutes == minutes


SMALL = {"profile": "small", "label": "small", "images": {"name": "blossoms", "resolution": 32, "n_classes": 4, "per_class": 30, "root": None},
         "model": {"steps": 4, "gan": {"width": 0.05, "batch": 8}, "log_every": 1},
         "splits": {"steps": 4, "classes_per_member": 2, "keep_checkpoints": [2], "gan": {"width": 0.05, "batch": 8}}}


def test_what_is_trained_is_known_and_its_log_gives_the_time(work):
    from acgan.data import load
    from acgan.ensemble import train_part, part_images
    before = costs.plan_costs(SMALL, "cpu")
    assert before["total"]["done"] == 0 and {one["by"] for one in before["speeds"]} == {"estimate"}
    assert load(**SMALL["images"]).n_classes == 4
    train_part(SMALL, part_images(SMALL), "model", engine="cpu")
    after = costs.plan_costs(SMALL, "cpu")
    model, splits = after["parts"]
    assert model["done"] == 1 and model["left"] == 0 < model["seconds"] and splits["done"] == 0 and splits["left"] == splits["seconds"]
    assert [one["by"] for one in after["speeds"]] == ["log"] and "3 steps of run" in after["speeds"][0]["text"]
    train_part(SMALL, part_images(SMALL), "splits", engine="cpu")
    row = costs.plan_costs(SMALL, "cpu")["parts"][1]
    files = sum(path.stat().st_size for one in (work / "runs").glob("*/step-*") for path in one.glob("tensors.safetensors") if (one.parent / "step-00000002").is_dir())
    assert row["disk"] == pytest.approx(files, rel=0.05) and row["done"] == 2


def test_a_short_measurement_takes_the_place_of_an_estimate(work):
    plan = costs.plan_costs(SMALL, "cpu", benchmark=True)
    assert [one["by"] for one in plan["speeds"]] == ["timed"] and "timed now" in plan["speeds"][0]["text"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory counters of Linux")
def test_memory_is_about_what_a_process_takes(work):
    program = r"""
import re, torch
from pathlib import Path
from acgan.data import load
from acgan.training import GANConfig, TrainState, train_steps, run_config
torch.set_num_threads(1)
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
images = load("blossoms", resolution=64, n_classes=4, per_class=30)
t = TrainState(run_config(GANConfig(width=0.1, batch=4), images), images)
train_steps(t, 1)
before = peak()
t = TrainState(run_config(GANConfig(width=0.5, batch=100), images), images)
train_steps(t, 2)
print(1024 * (peak() - before))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=HOME, env=os.environ | {"OMP_NUM_THREADS": "1"})
    took, planned = float(said.stdout), costs.memory_bytes(costs.facts_of(GANConfig(width=0.5), 64, 4))
    assert 0.4 < took / planned < 2.5, f"{took:.3g} B taken, {planned:.3g} B planned"


def test_a_part_that_cannot_be_planned_says_why(work, capsys):
    assert cli.main(["plan", "--profile", "paper", "--dataset", "imagenette", "--device", "cpu"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be planned: 'class_count' of the profile asks for 20 classes; the image set has 10" in said
    with pytest.raises(UserError, match="trains no"):
        costs.members_in({"images": SMALL["images"], "profile": "x"}, "model")


def test_the_command_prints_stages_and_costs_or_json(work, capsys):
    assert cli.main(["plan", "--profile", "quick", "--only", "tables", "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("tables") and any(line.split()[:2] == ["part", "members"] for line in said) and max(map(len, said[2:])) <= 120
    assert any(line.strip().startswith("acgan train --profile quick --part grid --on ray ") and " members, " in line for line in said)
    assert cli.main(["plan", "--profile", "quick", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"stages", "parts", "speeds", "images", "total", "pieces"} <= set(found) and found["stages"][0]["id"] == "tables" and found["pieces"] == []

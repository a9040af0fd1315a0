"""A queue of trainings: killed at random moments and started again, and two at once."""
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from acgan import cli
from acgan.checkpoints import open_run, read_log, steps_in

ROOT = Path(__file__).resolve().parents[1]
PROFILE = """
images: {name: blossoms, resolution: 32, n_classes: 3, per_class: 40}
queue: [pair]
model: {steps: 9}
pair: {steps: 60, n_seeds: 2, log_every: 20, checkpoint_every: 5, gan: {width: 0.05, batch: 10}}
"""
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def profile(tmp_path):
    (tmp_path / "long.yaml").write_text(PROFILE)
    return str(tmp_path / "long.yaml")


def start(profile, work):
    environment = os.environ | {"ACGAN_WORK": str(work), "ACGAN_HEADLESS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "acgan.cli", "queue", profile, "--device", "cpu"], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def runs(work):
    return sorted(path.parent for path in (work / "runs").glob("*/config.json"))


def parameters(folder):
    return [p for net in open_run(folder, 60).networks() for p in net.parameters()]


def logged(folder):
    return [{k: v for k, v in line.items() if "second" not in k} for line in read_log(folder)]


def test_killed_and_started_again_it_ends_at_the_same_bits(profile, tmp_path):
    calm, stormy = start(profile, tmp_path / "calm"), tmp_path / "stormy"
    assert calm.wait(300) == 0, calm.stderr.read()
    kills, chance = 0, random.Random(0)
    while True:
        process = start(profile, stormy)
        until, patience = len(list(stormy.glob("runs/*/step-*"))), chance.uniform(0.1, 0.6)
        while process.poll() is None and len(list(stormy.glob("runs/*/step-*"))) == until and not steps_of(stormy):
            time.sleep(0.02)
        try:
            code = process.wait(patience if kills < 3 else 300)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert (code, kills > 0) == (0, True)
    assert len(runs(stormy)) == 2
    for a, b in zip(runs(tmp_path / "calm"), runs(stormy), strict=True):
        assert a.name == b.name
        assert all(torch.equal(x, y) for x, y in zip(parameters(a), parameters(b), strict=True))
        assert logged(a) == logged(b)


def steps_of(work):
    return [step for folder in runs(work) for step in steps_in(folder)]


def test_two_queues_share_the_runs(profile, tmp_path):
    both = [start(profile, tmp_path / "work") for _ in range(2)]
    for process in both:
        process.communicate(timeout=300)
    assert {process.returncode for process in both} <= {0, 3}
    folders = runs(tmp_path / "work")
    assert [steps_in(folder) for folder in folders] == [[60], [60]]
    sessions = [(folder / "sessions.jsonl").read_text().count("\n") for folder in folders]
    assert sessions == [1, 1], "each run was trained by one of them"


def test_status_trains_nothing_and_counts(profile, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACGAN_WORK", str(tmp_path / "work"))
    assert cli.main(["queue", profile, "--status", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "0 of 2 runs are done" in said
    assert "model" not in said
    assert not list((tmp_path / "work").glob("runs/*/step-*"))


def test_a_slip_is_one_line(profile, tmp_path, capsys):
    assert cli.main(["queue", str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["queue", profile, "--part", "pairs"]) == 2
    assert "trains no 'pairs'" in capsys.readouterr().err

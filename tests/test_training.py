"""What the notebooks cannot show of themselves: real processes killed at random moments, two of them in one folder, a full disk."""
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acgan.config import UserError
from acgan.data import load
from acgan.ensemble import Ensemble, grid, members_of
from acgan.models import SPECS
from acgan.training import METRICS, GANConfig, difference, run_config
from acgan.checkpoints import Schedule, leased, open_run, steps_in
from acgan.populations import Engine, train

ROOT = Path(__file__).resolve().parents[1]
SMALL = GANConfig(width=0.05, batch=10)
OFTEN = Schedule(60, log_every=5, checkpoint_every=5)
PROGRAM = """
import os, signal, sys, time, torch
torch.set_num_threads(1)
from acgan.data import load
from acgan.training import GANConfig, TrainState, run_config
from acgan.checkpoints import Schedule
from acgan.populations import train
images, member = load("blossoms", resolution=32, n_classes=3, per_class=40), GANConfig(width=0.05, batch=10)
TrainState(run_config(member, images), images)    # loads what torch loads late
for patience in map(float, sys.stdin):       # a process of its own trains until it is done or, after so many seconds, killed
    child = os.fork()
    if not child:
        train(member, images, Schedule(60, log_every=5, checkpoint_every=5), "cpu", sys.argv[1])
        os._exit(0)
    if patience:
        time.sleep(patience)
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_WORK", str(tmp_path_factory.mktemp("work")))
        yield load("blossoms", resolution=32, n_classes=3, per_class=40)


@pytest.fixture
def trainer(tmp_path):
    """A program that trains in tmp_path/stormy, in a new process for each number of seconds that it is sent."""
    environment = os.environ | {"ACGAN_HEADLESS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "stormy")], env=environment, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield program
    program.kill()
    program.communicate()


def attempt(trainer, patience=0):
    """Train in a new process and kill it after `patience` seconds, if any; returns its exit code, 0 when it had finished before."""
    trainer.stdin.write(f"{patience}\n")
    trainer.stdin.flush()
    return int(trainer.stdout.readline())


def weights(run):
    return [net.state_dict() for net in run.networks()]


def equal(a, b):
    return all(torch.equal(x[key], y[key]) for x, y in zip(weights(a), weights(b), strict=True) for key in x)


def measured(run):
    """What a run's log says, without the clock."""
    return [{key: line[key] for key in ("step", "steps", *METRICS)} for line in run.log()]


def test_killed_at_random_moments_resumes_to_the_same_bits(images, trainer, tmp_path):
    calm = train(SMALL, images, OFTEN, "cpu", tmp_path / "calm")[0]
    seconds, chance = sum(line["seconds"] for line in calm.log()), random.Random(0)
    folder, steps = tmp_path / "stormy" / calm.id, []
    while len(steps) < 24 and 60 not in steps:
        code = attempt(trainer, chance.uniform(0, seconds * (1 + len(steps)) / 10))       # more patience each time, to get on
        steps.append(max(steps_in(folder), default=0))
        assert code == -signal.SIGKILL or steps[-1] == 60
    assert any(0 < step < 60 for step in steps) and steps == sorted(steps)                # killed on the way, never thrown back
    assert attempt(trainer) == 0
    stormy = open_run(folder, 60)
    assert equal(calm, stormy)
    assert measured(stormy) == measured(calm) and [line["step"] for line in stormy.log()] == list(range(5, 61, 5))
    assert not list(folder.glob(".step-*"))                               # nothing half-written is left


def test_two_runs_on_one_folder_the_second_refuses(images, tmp_path):
    folder = tmp_path / run_config(SMALL, images).id
    with leased(folder), pytest.raises(UserError, match="another run is using"):
        train(SMALL, images, 2, "cpu", tmp_path)
    assert train(SMALL, images, 2, "cpu", tmp_path)[0].step == 2


def test_a_full_disk_is_one_line_and_nothing_half_written(images, tmp_path, monkeypatch):
    run = train(SMALL, images, 2, "cpu", tmp_path)[0]
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="cannot write .*: No space left on device"):
        train(SMALL, images, 4, "cpu", tmp_path)
    monkeypatch.undo()
    assert steps_in(run.folder) == [2] and not list(run.folder.glob(".step-*"))
    assert open_run(run.folder).networks()


def test_pickled_and_foreign_files_are_refused(images, tmp_path):
    run = train(SMALL, images, 2, "cpu", tmp_path)[0]
    file = run.folder / "step-00000002" / "tensors.safetensors"
    state = json.loads((file.parent / "state.json").read_text())
    for data in (b"", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(64)):
        file.write_bytes(data)
        with pytest.raises(UserError, match="tensors.safetensors is damaged"):
            run.networks()
    import hashlib
    file.write_bytes(b"\x80\x04K\x01.")
    (file.parent / "state.json").write_text(json.dumps(state | {"sha256": hashlib.sha256(b"\x80\x04K\x01.").hexdigest()}))
    with pytest.raises(UserError, match="is not a safetensors file"):
        run.networks()


def test_a_member_does_not_feel_its_company(images, tmp_path):
    many = train(grid(SMALL, seed=(0, 1), lr_g=(1e-4, 3e-4)), images, Schedule(4, log_every=1), "cpu", tmp_path / "many")
    for run in many[::3]:
        member = run.gan
        alone = train(member, images, Schedule(4, log_every=4), "cpu", tmp_path / "alone")[0]
        assert alone.id == run.id and equal(alone, run)


def test_an_ensemble_samples_each_class_from_its_member_whatever_the_grouping(images, tmp_path):
    runs = train(members_of([(0, 2), (1,)], SMALL), images, 2, "cpu", tmp_path)
    ahead, back = Ensemble(runs, images.classes, "cpu"), Ensemble(runs[::-1], images.classes, "cpu")
    for name in images.classes:
        assert torch.equal(ahead.sample(name, 3, seed=4), back.sample(name, 3, seed=4))
    assert torch.equal(ahead.sample_set(2, 4).images[2:4], ahead.sample(1, 2, 4))


def test_training_learns_to_tell_classes(images, tmp_path):
    """Where truth is known: after some steps D's classifier beats chance on real images, and G's classes differ."""
    member = GANConfig(width=0.15, batch=30, lr_d=1e-3, lr_g=1e-3, dropout=0.1, noise_std=0)
    run = train(member, images, 80, "cpu", tmp_path)[0]
    assert run.log()[-1]["class_real_accuracy"] > 0.7                     # chance is 0.33
    E = Ensemble([run], device="cpu")
    means = torch.stack([E.sample(k, 30).float().mean((0, 2, 3)) for k in range(3)])
    assert torch.cdist(means, means).max() > 5                            # grey levels


def test_a_run_trains_with_one_thread_unless_its_configuration_asks_for_more(images, tmp_path):
    torch.set_num_threads(2)
    one, two = train([SMALL, replace(SMALL, threads=2)], images, 2, "cpu", tmp_path)
    assert torch.get_num_threads() == 2, "the caller's own number is put back"
    torch.set_num_threads(1)
    assert one.id != two.id
    made = [json.loads((run.folder / "sessions.jsonl").read_text())["provenance"]["threads"] for run in (one, two)]
    assert made == [1, 2]
    assert json.loads((two.folder / "config.json").read_text())["gan"]["threads"] == 2


def test_the_same_bits_whatever_the_number_of_threads_around_it(images, tmp_path):
    hashes = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        run = train(replace(SMALL, width=0.1), images, 200, "cpu", tmp_path / str(threads))[0]
        hashes.append(run.log()[-1]["parameters_sha256"])
    torch.set_num_threads(1)
    assert hashes[0] == hashes[1]


def test_a_default_that_changes_later_does_not_continue_another_network(images, tmp_path, monkeypatch):
    run = train(SMALL, images, 2, "cpu", tmp_path)[0]
    spec = SPECS["odena2017-32"]
    monkeypatch.setitem(SPECS, "odena2017-32", replace(spec, noise_std=0.2))
    with pytest.raises(UserError, match="holds another run: noise_std was 0.1 and is now 0.2"):
        train(SMALL, images, 4, "cpu", tmp_path)
    assert open_run(run.folder).gan.noise_std == 0.1, "and what was trained can still be opened"
    assert open_run(run.folder).networks()


def test_an_older_format_is_refused_with_one_line(images, tmp_path):
    run = train(SMALL, images, 2, "cpu", tmp_path)[0]
    stored = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps(stored | {"format": 1}))
    for attempt in (lambda: open_run(run.folder), lambda: train(SMALL, images, 4, "cpu", tmp_path)):
        with pytest.raises(UserError, match="format 1; this version of acgan reads format 2 only") as caught:
            attempt()
        assert "\n" not in str(caught.value)


OLDER = {"": "6d3e983d1f23", "amgan": "1b293f204844", "gan*": "29428fea7c2f"}         # ids of three configurations before there was smoothing


@pytest.mark.parametrize("objective", OLDER)
def test_a_setting_that_is_added_renames_no_older_run(objective, tmp_path, monkeypatch):
    monkeypatch.setenv("ACGAN_WORK", str(tmp_path))
    flowers = load("blossoms", resolution=32, n_classes=4, per_class=20)
    gan = GANConfig(width=0.05, width_d=0.05, batch=8, objective=objective or "acgan")
    assert run_config(gan, flowers).id == OLDER[objective]
    assert run_config(replace(gan, label_smoothing={}), flowers).id == OLDER[objective]
    smoothed = run_config(replace(gan, label_smoothing={"real": 0.1}), flowers)
    assert smoothed.id != OLDER[objective] and smoothed.changes()["label_smoothing"] == {"real": 0.1}


def test_a_run_from_before_smoothing_goes_on(images):
    stored = run_config(SMALL, images).to_json()
    later = ("label_smoothing", "slope", "weight_norm", "init_dist", "data_init", "fake_logit")
    stored["gan"] = {name: value for name, value in stored["gan"].items() if name not in later}
    assert difference(stored, run_config(SMALL, images)) is None


AMGAN = {"spec": "zhou2018", "objective": "amgan", "labels": "dynamic", "data_init": "real", "lr_schedule": "staircase", "lr_decay_steps": 3,
         "fake_logit": "zero", "noise_dist": "truncated"}


@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_a_start_from_data_and_a_staircase_resume_to_the_same_bits(images, tmp_path, backend):
    members = [replace(SMALL, **AMGAN, seed=seed) for seed in range(2)]
    engine = Engine("cpu", backend)
    calm = train(members, images, 8, engine, tmp_path / "calm")
    train(members, images, 4, engine, tmp_path / "broken")
    again = train(members, images, 8, engine, tmp_path / "broken")
    assert all(equal(a, b) for a, b in zip(calm, again, strict=True))
    if backend == "loop":
        alone, = train(members[1], images, 8, "cpu", tmp_path / "alone")
        assert equal(alone, calm[1])


@pytest.mark.parametrize("objective", ["catgan", "amgan+", "amgan-semi", "amgan-unsupervised"])
def test_the_objectives_of_the_am_gan_appendices_train(images, tmp_path, objective):
    gan = replace(SMALL, objective=objective, labelled=0.5, label_smoothing={"real": 0.1, "fake": 0.1, "g": 0.1})
    run, = train([gan], images, Schedule(4, log_every=2, checkpoint_every=4), "cpu", tmp_path)
    log = run.log()
    for line in log:
        assert line["d_loss"] == pytest.approx(sum(line[name] for name in METRICS[2:6]), rel=1e-4)
    assert run.step == 4 and (log[-1]["source_real"] > 0) == (objective != "catgan")


def test_a_run_goes_on_from_another_with_changed_settings(images, tmp_path):
    """The child trains from the parent's weights, in one call or in another, and its log says whose child it is."""
    parent = replace(SMALL, loss_weights={"d_class_real": 2.0})
    child = replace(parent, lr_g=1e-12, lr_d=1e-12, loss_weights={"d_class_real": 10.0},
                    continues={"step": 4, "lr_g": 2e-4, "lr_d": 2e-4, "loss_weights": {"d_class_real": 2.0}})
    with pytest.raises(UserError, match="at step 4, which is not there: train that first"):
        train(child, images, 4, "cpu", tmp_path)
    old, new = train([parent, child], images, 4, "cpu", tmp_path)
    assert new.id == run_config(child, images).id != old.id
    assert {json.dumps(line["continues"]) for line in new.log()} == {json.dumps({"run": old.id, "step": 4})}
    assert "continues" not in old.log()[0]
    for net, theirs in zip(new.networks(), old.networks(), strict=True):
        for a, b in zip(net.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-9), "at no learning rate the parent's weights stay"
    assert difference(run_config(child, images).to_json(), run_config(replace(child, continues={"step": 5}), images)).startswith("continues was")
    stopped = replace(child, lr_g=1e-4)
    train(stopped, images, Schedule(2, checkpoint_every=2), "cpu", tmp_path)
    later, = train(stopped, images, Schedule(4, checkpoint_every=2), "cpu", tmp_path)
    whole, = train(stopped, images, 4, "cpu", tmp_path, resume=False)
    assert later.log()[-1]["step"] == 4 and whole.id == later.id

"""A cluster of three Ray nodes on this machine: a node is lost while its member is trained, and leases keep two real processes apart.

The head has no cores and each other node has one, so what is trained is trained elsewhere. One cluster serves all tests, in order."""
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import acgan
from acgan import cli, cluster, config, ensemble
from acgan.checkpoints import Schedule, holder_of, is_over, open_run, steps_in
from acgan.config import UserError, read_json
from acgan.data import load
from acgan.populations import Engine, train
from acgan.training import METRICS, GANConfig, run_config

ROOT = Path(__file__).resolve().parents[1]
STORE = 80 * 2**20
PROFILE = {"images": {"name": "blossoms", "resolution": 32, "n_classes": 3, "per_class": 40, "root": None}, "label": "small",
           "pair": {"steps": 100, "log_every": 5, "checkpoint_every": 20, "n_seeds": 2, "gan": {"width": 0.05, "batch": 10}},
           "four": {"steps": 12, "log_every": 3, "checkpoint_every": 6, "n_seeds": 4, "gan": {"width": 0.05, "batch": 8}}}
PROGRAM = """
import sys
import torch
torch.set_num_threads(1)
from acgan.data import load
from acgan.training import GANConfig
from acgan.checkpoints import Schedule
from acgan.populations import train
images = load("blossoms", resolution=32, n_classes=3, per_class=40)
train(GANConfig(width=0.05, batch=10), images, Schedule(int(sys.argv[2]), log_every=1, checkpoint_every=5), "cpu", sys.argv[1])
"""
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A checkout with one small profile, whose work folder all nodes share."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "nbs" / "profiles").mkdir(parents=True)
    (folder / "nbs" / "profiles" / "small.yaml").write_text(yaml.safe_dump(PROFILE))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ACGAN_HOME": folder, "ACGAN_WORK": folder / "data", "PYTHONPATH": ROOT, "ACGAN_LEASE": 3,
                            "ACGAN_HEADLESS": 1, "OMP_NUM_THREADS": 1, "RAY_USAGE_STATS_ENABLED": 0,
                            "RAY_worker_niceness": 0, "RAY_health_check_initial_delay_ms": 500, "RAY_health_check_period_ms": 500,
                            "RAY_prestart_worker_first_driver": 0}.items():
            patch.setenv(name, str(value))
        yield folder


def head():
    from ray.cluster_utils import Cluster
    return Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False, "object_store_memory": STORE})


def patiently(start):
    """start(), up to three times: on a busy machine Ray gives up a node that is not there after 30 s."""
    for _ in range(2):
        try:
            return start()
        except Exception as error:
            assert "timed out during startup" in str(error)
    return start()


@pytest.fixture(scope="module")
def nodes(home):
    """A running cluster: the head without cores, and two nodes with one core each."""
    made = patiently(head)
    for _ in range(2):
        patiently(lambda: made.add_node(wait=False, num_cpus=1, object_store_memory=STORE))
    made.wait_for_nodes(60)
    with cluster.connected(made.address):                               # one driver for all tests, so that workers stay warm
        yield made
    made.shutdown()


def numbers(run):
    """Everything that a run's networks hold, and its log without the clock."""
    tensors = [value for net in run.networks() for value in net.state_dict().values()]
    return tensors, [{key: line[key] for key in ("step", "steps", *METRICS)} for line in run.log()]


def equal(a, b):
    (mine, log), (theirs, other) = numbers(a), numbers(b)
    return a.id == b.id and log == other and all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def logged(folder):
    """The steps of the lines of a run's log, in the order in which they were written."""
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def settings():
    return config.profile("small")


def at_home(part, out):
    """The runs of a part, trained in this process by the plain loop."""
    images = ensemble.part_images(settings(), part)
    members = list(ensemble.named_members(settings(), part, images.classes).values())
    return train(members, images, ensemble.part_schedule(settings(), part), Engine("cpu", "loop"), out)


def until(fact, seconds=60):
    end = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
    return found


def begun(home, part):
    """The folders of a part's runs with a checkpoint that is neither none nor the last."""
    manifest = home / "data" / "runs" / "ensembles" / f"small-{part}.json"
    listed = read_json(manifest)["members"] if manifest.is_file() else []
    folders = [home / "data" / "runs" / one["run"] for one in listed]
    return [f for f in folders if any(0 < s < PROFILE[part]["steps"] for s in steps_in(f))]


def node_of(nodes, pid):
    """The node of the cluster whose raylet started the process `pid`."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return next(node for node in nodes.worker_nodes if parent in [one.process.pid for group in node.all_processes.values() for one in group])


def test_a_node_is_lost_and_another_comes(nodes, home, tmp_path, capsys):
    codes = []
    words = ["train", "--profile", "small", "--part", "pair", "--on", f"ray:{nodes.address}", "--device", "cpu"]
    driver = threading.Thread(target=lambda: codes.append(cli.main(words)))
    driver.start()
    folder = until(lambda: begun(home, "pair"))[0]
    victim = until(lambda: holder_of(folder))
    saved = steps_in(folder)[-1]
    assert cli.main([*words[:5], "--status"]) == 0
    nodes.remove_node(node_of(nodes, victim["pid"]), allow_graceful=False)
    patiently(lambda: nodes.add_node(wait=False, num_cpus=1, object_store_memory=STORE))
    driver.join(120)
    assert codes == [0]
    text = capsys.readouterr().out
    assert f":{victim['pid']}," in text and " training" in text and "trained: 2 of 2 model(s) of 'pair'" in text
    for run in at_home("pair", tmp_path):
        assert equal(open_run(folder.with_name(run.id), 100), run)
    sessions = [json.loads(line)["checkpoints"] for line in (folder / "sessions.jsonl").read_text().splitlines()]
    assert sessions[0] == [] and len(sessions) == 2                     # the lost node's, and the other's
    resumed = sessions[1][-1]
    assert resumed >= saved > 0                                         # it went on from the newest checkpoint
    repeated = [step for step, times in Counter(logged(folder)).items() if times > 1]
    assert all(resumed < step <= resumed + 20 for step in repeated)     # nothing but the steps since then was made twice
    assert sorted(set(logged(folder))) == list(range(5, 101, 5))
    other = next(f for f in folder.parent.glob("*/log.jsonl") if f.parent != folder).parent
    assert len(logged(other)) == len(set(logged(other)))                # the member on the other node did not notice


def test_the_loop_workers_and_ray_give_the_same_bits(nodes, home, tmp_path):
    worker = subprocess.Popen([sys.executable, "-c", "import sys; from acgan import config, jobs\n"
                               "jobs.work(config.profile('small'), 'four', (2,), 'cpu', sys.argv[1])", str(tmp_path / "told.json")])
    base = GANConfig(width=0.05, batch=8)
    members = [base, replace(base, seed=1, classes=(0, 2)), replace(base, seed=2, lr_g=1e-4)]
    how = {"steps": 8, "log_every": 2, "checkpoint_every": 4, "device": "cpu"}
    far = acgan.train("blossoms", members, engine=f"ray:{nodes.address}", out=tmp_path / "far", **how)
    near = acgan.train("blossoms", members, out=tmp_path / "near", **how)
    assert all(equal(a, b) for a, b in zip(far.runs, near.runs, strict=True))
    part = cluster.train_part_on_cluster(settings(), ensemble.part_images(settings(), "four"), "four", f"ray:{nodes.address}",
                                         Engine("cpu"), only=[0, 2], out=tmp_path / "part")
    loop = at_home("four", tmp_path / "loop")
    assert [equal(a, b) for a, b in zip(part.runs, loop[::2], strict=True)] == [True, True]
    assert worker.wait(60) == 0
    assert equal(open_run(home / "data" / read_json(tmp_path / "told.json")["folders"][0], 12), loop[2])
    rows = cluster.campaign_status(settings(), "four", tmp_path / "part")
    assert [row["state"] for row in rows] == ["done", "missing", "done", "missing"]
    assert len(ensemble.open_ensemble("small-four", tmp_path / "part").runs) == 2      # what is there can be sampled


def test_minutes_and_failures_come_back_from_the_cluster(nodes, home, tmp_path):
    images, about = load("blossoms", resolution=32), {"name": "blossoms", "resolution": 32}
    members = [GANConfig(width=0.05, batch=8, lr_d=1e30), GANConfig(width=0.05, batch=8)]
    where = {"on": f"ray:{nodes.address}", "engine": Engine("cpu"), "out": tmp_path}
    with pytest.raises(cluster.TimeBudgetExceeded, match="0 of 2 members complete; the same command goes on"):
        cluster.train_on_cluster(members, images, about, Schedule(9999, minutes=1e-9), **where)
    with pytest.raises(UserError, match="is not finite at step"):
        cluster.train_on_cluster(members, images, about, Schedule(8, log_every=2), **where)
    assert open_run(tmp_path / run_config(members[1], images).id).step == 8
    assert "is not finite" in read_json(tmp_path / run_config(members[0], images).id / "failed.json")["error"]


def test_there_is_no_cluster(home, monkeypatch, capsys):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("nobody there")))
    assert cli.main(["train", "--profile", "small", "--part", "four", "--on", "ray"]) == 2
    assert "no Ray cluster at 'auto'" in capsys.readouterr().err
    assert cli.main(["train", "--profile", "small", "--part", "four", "--on", "ray://head:10001"]) == 2
    assert "run this on the cluster" in capsys.readouterr().err


def trainer(out, steps):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(out), str(steps)], stderr=subprocess.PIPE, text=True)


def test_a_paused_worker_loses_its_run_and_writes_nothing_more(home, tmp_path):
    images, member = load("blossoms", resolution=32, n_classes=3, per_class=40), GANConfig(width=0.05, batch=10)
    folder = tmp_path / "shared" / run_config(member, images).id
    first = trainer(tmp_path / "shared", 999_999)
    until(lambda: steps_in(folder))
    first.send_signal(signal.SIGSTOP)                                   # asleep, not dead: nobody can know
    last = steps_in(folder)[-1] + 20
    end = Schedule(last, log_every=1, checkpoint_every=5)
    with pytest.raises(UserError, match=f"another run is using .*process {first.pid}"):
        train(member, images, end, "cpu", tmp_path / "shared")          # its lease is fresh
    until(lambda: is_over(holder_of(folder)))
    second, = train(member, images, end, "cpu", tmp_path / "shared")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    first.send_signal(signal.SIGCONT)
    assert "was taken over by another worker" in first.communicate(timeout=60)[1]
    assert first.returncode != 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    alone, = train(member, images, end, "cpu", tmp_path / "alone")
    assert equal(second, alone) and steps_in(folder) == [last]


def test_a_killed_worker_is_followed_at_once(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ACGAN_LEASE", "300")                            # its time is far from over
    images, member = load("blossoms", resolution=32, n_classes=3, per_class=40), GANConfig(width=0.05, batch=10)
    folder = tmp_path / run_config(member, images).id
    first = trainer(tmp_path, 999_999)
    until(lambda: steps_in(folder))
    first.kill()
    first.communicate()
    saved = steps_in(folder)[-1]
    began = time.monotonic()
    train(member, images, Schedule(saved + 5, log_every=5), "cpu", tmp_path)
    assert time.monotonic() - began < 60 and saved + 5 in steps_in(folder)

"""The first pages: their table is the ledger's, their links lead somewhere, and every command and example on them runs.

A command runs on small folders of images and with options for small networks, inside a checkout of small profiles. `make` targets are
read by `make -n`: what they would run goes through `acgan plan`, which takes the same options, while tests/test_verify.py and
tests/test_chain.py run chains. tests/test_wheel.py installs."""
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from PIL import Image
from test_bench import TINY

from acgan import bench, cli, cluster, findings
from acgan.config import read_json
from acgan.data import CIFAR_CLASSES, load

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/RUNNING.md", "nbs/README.md")
GAN = {"width": 0.05, "width_d": 0.06, "z_dim": 4, "batch": 8}
QUICK = {"images": {"name": "blossoms", "resolution": 32, "n_classes": 3, "per_class": 12, "root": None},
         "model": {"steps": 4, "log_every": 2, "checkpoint_every": 2, "gan": GAN}, "queue": ["model"],
         "splits": {"steps": 2, "classes_per_member": 2, "gan": GAN},
         "classifier": {"name": "resnet20", "epochs": 1, "width": 0.25, "batch": 16},
         "stages": {"samples": {"per_class": 6}}}
REAL = QUICK | {"images": {"name": "cifar10", "resolution": 32, "n_classes": None, "per_class": None, "root": None}}
ELSEWHERE = {"pip install .": "tests/test_wheel.py"}
pytestmark = pytest.mark.usefixtures("one_thread")


def blocks(page, language):
    """The texts of the fenced blocks of a page that are marked with `language` ("": not at all)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [text for kind, text in found if kind == language]


def commands(page):
    """The commands in the unmarked blocks of a page, without the remarks behind them."""
    lines = [line.split("  #")[0].strip() for block in blocks(page, "") for line in block.splitlines()]
    return [line for line in lines if line]


def prose(page):
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def command_names():
    """The names of the subcommands of `acgan`."""
    return set(next(action for action in cli.parser()._actions if action.dest == "command").choices)


def write_images(folder, names, count, split=""):
    """Class folders of `count` drawn images each; their classes get the names of others."""
    drawn = load("blossoms", resolution=32, n_classes=len(names), per_class=count, split="test" if split == "test" else "train")
    for image, label in zip(drawn.images, drawn.labels.tolist()):
        path = folder / split / names[label] / f"{len(list((folder / split / names[label]).glob('*')))}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return str(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkout with small profiles, and the words that stand for folders on the pages: {word: path}."""
    home, pets = tmp_path_factory.mktemp("checkout"), ["bird", "cat", "dog"]
    shutil.copytree(ROOT / "nbs", home / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "[0-9]*.ipynb", "analyses"))
    for paper in ("odena2017", "zhou2018", "tay2021", "critique"):
        shutil.copytree(ROOT / "nbs" / paper, home / "nbs" / paper, dirs_exist_ok=True)
    for path in (home / "nbs" / "profiles").glob("*.yaml"):
        if path.stem != "paper":
            path.write_text(yaml.safe_dump(QUICK if path.stem == "quick" else REAL))
    for split, count in (("train", 10), ("test", 4)):
        write_images(home / "images" / "cifar10", CIFAR_CLASSES, count, split)
    words = {"DIR": str(home / "images"), "1:10": "1:2", "FILE": str(home / "weights.pth")}
    words |= {name: write_images(home / name.lower(), pets, 24) for name in ("FOLDER", "REAL", "SAMPLES")}
    words["SET"] = "quick-folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_HOME", str(home))
        patch.setenv("ACGAN_WORK", str(home / "data"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setitem(bench.SETTINGS, "quick", bench.SETTINGS["quick"] | TINY | {"threads": []})
        patch.chdir(home)
        yield home, words


def own_set(place):
    """The figure set of the chain on FOLDER, made when it is not there."""
    home, given = place
    if not (home / "figures" / given["SET"] / "inputs.json").is_file():
        words = ["reproduce", "--dataset", given["FOLDER"], "--only", "training", "--only", "report"]
        assert cli.main([*words, "--device", "cpu"]) == 0
    return home / "figures" / given["SET"]


def made_small(words, given):
    """The options that make an `acgan` command small, to be put behind its own. Fails for a command that is not known here."""
    net = ["--steps", "2", "--resolution", "32", "--width", "0.05", "--batch", "8"]
    stage = ["--only", "training", *(["--only", "report"] if "--dataset" in words else [])]
    small = {"train": [] if "--profile" in words else net, "sample": [], "score": ["--per-class", "8", "--splits", "2", "--epochs", "1"],
             "reproduce": [] if "--only" in words else stage, "plan": [], "queue": [], "verify": ["--dataset", given["FOLDER"]],
             "bench": ["--quick", "--out", "speed"], "analyse": []}
    assert words[1] in small, f"the page has a command that its test does not know: {' '.join(words)}"
    return small[words[1]] + ([] if words[1] == "analyse" else ["--device", "cpu"])


@contextmanager
def here_instead(address):
    """A stand-in for Ray, whose clusters are in tests/test_ray.py: a task runs in this process when its answer is asked for."""
    class Here:
        def remote(self, *given, **options):
            return (lambda function: self) if options else (given[0], tuple(given[1]))
        options = lambda self, **room: self
        wait = lambda self, tasks, timeout: (tasks, [])
        get = lambda self, task: cluster.train_positions(*task)
        cluster_resources = lambda self: {"CPU": 2.0}
        nodes = lambda self: []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ACGAN_LEASE", "ACGAN_HEADLESS"):
            patch.setenv(name, os.environ.get(name, "60"))
        yield Here()


def run_make(line, place):
    """What `make` would run, read by `make -n`; a chain is planned with the same options."""
    said = subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    last = shlex.split(said.stdout.splitlines()[-1])
    if "reproduce" not in last:
        return said.stdout
    assert last[1:4] == ["-m", "acgan.cli", "reproduce"]
    assert cli.main(["plan", *last[4:], "--device", "cpu"]) == 0
    return said.stdout


@pytest.mark.parametrize("page, line", [(page, line) for page in PAGES for line in commands(page)])
def test_a_command_of_the_page_runs(page, line, place, capfd, monkeypatch):
    if line in ELSEWHERE:
        assert (ROOT / ELSEWHERE[line]).is_file()
        return
    home, given = place
    if line.startswith("acgan train") and " --on ray" in line:
        monkeypatch.setattr("acgan.cluster.connected", here_instead)
    words = [given.get(word, word) for word in shlex.split(line)]
    words = [re.sub(r"=(DIR|FILE)$", lambda found: f"={given[found[1]]}", word) for word in words]
    if words[0] == "make":
        run_make(shlex.join(words), home)
    elif words[0] == "papermill":
        done = subprocess.run([sys.executable, "-m", *words, "-p", "n_paths", "6", "-p", "n_rows", "6"], cwd=home, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"})
        assert done.returncode == 0, done.stderr[-2000:]
    else:
        assert words[0] == "acgan", f"the page has a command that its test does not know: {line}"
        small = made_small(words, given)
        if words[1] == "verify":
            own_set(place)
        run = ["plan", *words[2:], *small[-2:]] if "-p" in words else [*words[1:], *small]
        assert cli.main(run) == 0, capfd.readouterr().err


@pytest.mark.parametrize("minutes, queued", [("9", ""), ("0.000001", "requeue 77_1\n")])
def test_the_array_of_slurm_trains_its_members_and_comes_back(minutes, queued, place, tmp_path):
    """Its command line, with a stand-in for Slurm: the second task of two has no members, the first goes on when its time is over."""
    home, given = place
    programs = {"scontrol": f'echo "$@" >> {tmp_path}/said', "acgan": f'exec {sys.executable} -m acgan.cli "$@" --device cpu'}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PROFILE": "gpu", "PART": "model", "SIZE": "1", "MINUTES": minutes,
                        "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "1", "ACGAN_WORK": str(tmp_path / "work")}
    script = [str(ROOT / "docs" / "slurm.sh"), "--data-root", given["DIR"]]
    done = subprocess.run(script, cwd=home, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("trained: 1 of 1" in done.stdout) == (queued == "")
    assert (tmp_path / "said").read_text() == queued if queued else not (tmp_path / "said").exists()
    assert subprocess.run(script, cwd=home, env=env | {"SLURM_ARRAY_TASK_ID": "2"}, capture_output=True).returncode == 2


def test_a_chain_on_ones_own_images_marks_the_pictures_that_show_them(place):
    made = own_set(place)
    assert read_json(made / "images_real.json")["contains_data"] is True
    assert (made / "images_real.data.png").is_file() and (made / "report.data.html").is_file()
    assert not (made / "images_real.png").exists() and not (made / "report.html").exists()
    assert (made / "training_curves.png").is_file()


@pytest.mark.parametrize("number", range(len(blocks("README.md", "python"))))
def test_a_python_example_runs(number, place):
    home, given = place
    text = blocks("README.md", "python")[number].replace("resolution=64", "resolution=32").replace("steps=20_000", "steps=2")
    text = text.replace('acgan.train("FOLDER",', 'acgan.train("FOLDER", GANConfig(width=0.05, batch=8),').replace('out="model"', 'out="small"')
    for name in ("FOLDER", "REAL", "SAMPLES"):
        text = text.replace(f'"{name}"', repr(given[name]))
    names = {}
    exec("from acgan.training import GANConfig\n" + text, names)
    assert list(names["cats"].shape) == [16, 3, 32, 32] if "cats" in names else len(names["result"].frame()) >= 3


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_prose_exist(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, word in re.findall(r"`(acgan|make)\s+([a-z]+)", prose(page)):
        assert word in (targets if program == "make" else command_names()), f"{program} {word}"


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_to_files_and_lines_are_short(page):
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    assert [line for line in text.splitlines() if len(line) > 100 and not line.startswith("|")] == []


def test_the_readme_shows_what_the_ledger_says(monkeypatch):
    monkeypatch.setenv("ACGAN_HOME", str(ROOT))
    text = (ROOT / "README.md").read_text()
    assert text == findings.with_findings(text), "run `make findings`"
    assert 10 <= len(re.findall(r"^\| (?!where)[^-]", findings.BLOCK.search(text)[0], re.MULTILINE)) <= 18
    assert len(text.splitlines()) <= 120, "the README is one page; the rest has pages of its own"


@pytest.mark.parametrize("target", ["test", "lab", "findings"])
def test_other_targets_of_make(target, tmp_path):
    words = {"test": "-m pytest", "lab": "jupyterlab", "findings": "write_findings"}[target]
    assert words in run_make(f"make {target}", tmp_path)

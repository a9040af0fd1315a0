"""The command line as a person meets it: real processes, one line for a mistake, exit codes."""
import os
import subprocess
import sys

import pytest
from PIL import Image

from acgan import cli
from acgan.config import home

HOME = str(home())
ENV = os.environ | {"ACGAN_HOME": HOME, "PYTHONPATH": HOME}


def acgan(*words, cwd):
    return subprocess.run([sys.executable, "-m", "acgan.cli", *map(str, words)], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("words, message", [
    (["reproduce", "--profile", "quik"], "unknown profile 'quik'"),
    (["reproduce", "--only", "nothing"], "unknown stage 'nothing'"),
    (["plan", "-p", "training.no_such=1"], "no parameter 'no_such'"),
    (["plan", "-p", "nonsense"], "write stage.parameter=value"),
    (["plan", "--data-root", "no/such/folder"], "does not exist"),
    (["plan", "--device", "tpu"], "unknown device 'tpu'"),
    (["train", "no/such/folder", "--out", "x"], "no/such/folder"),
    (["train", "cifar11", "--out", "x"], "unknown data set 'cifar11'"),
    (["train", "blossoms", "--out", "x", "--resolution", "33"], "33"),
    (["train", "blossoms", "--out", "x", "--objective", "acgn"], "unknown objective 'acgn'"),
    (["train", "blossoms", "--out", "x", "--steps", "0"], "steps"),
    (["train"], "needs either a folder of images, or --profile with --part"),
    (["train", "blossoms", "--profile", "quick"], "needs either a folder of images, or --profile with --part"),
    (["train", "blossoms", "--members", "1:2"], "--members goes with --profile"),
    (["train", "--profile", "quick", "--part", "model", "--steps", "9"], "--steps goes with a folder of images; a profile says it itself"),
    (["train", "--profile", "quick"], "--profile needs --part"),
    (["train", "--profile", "quick", "--part", "modell"], "trains no 'modell'"),
    (["bench", "--device", "tpu"], "unknown device 'tpu'"),
    (["sample", "nowhere"], "holds no trained model"),
    (["score", "nowhere", "blossoms"], "holds no trained model")])
def test_a_mistake_is_one_line_and_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACGAN_HOME", HOME)
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and message in said.err and said.err.startswith("acgan: ")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size], "something was half-written"


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGAN_HOME", str(tmp_path))
    monkeypatch.delenv("ACGAN_WORK", raising=False)
    (tmp_path / "nbs/profiles").mkdir(parents=True)
    (tmp_path / "nbs/profiles/small.yaml").write_text("""
images: {name: blossoms, resolution: 32, n_classes: 4, per_class: 30, root: null}
pairs: {classes_per_member: 2, steps: 4, log_every: 2, probe_every: 2, checkpoint_every: 2, gan: {width: 0.05, batch: 8}}
grid: {axes: {noise_std: [0.0, 0.1, 0.2]}, steps: 4, log_every: 1, checkpoint_every: 1, gan: {width: 0.05, batch: 8}}
""")
    return ["train", "--profile", "small", "--device", "cpu"]


def test_a_part_in_slices_is_the_campaign_of_the_studies(small, tmp_path, capsys):
    from acgan import checkpoints, config, costs, ensemble
    settings = config.profile("small")
    assert cli.main([*small, "--part", "pairs", "--members", "2"]) == 0, capsys.readouterr().err
    assert "pairs: 1 of 2 model(s), 4 steps on 120 images at 32 px" in (said := capsys.readouterr().out) and "trained: 1 of 2 model(s)" in said
    assert costs.made_of(settings, "pairs") == {0: 0, 1: 4}
    half = ensemble.open_ensemble("small-pairs", device="cpu")
    assert [len(run.classes) for run in half.runs] == [2] and len(half.missing) == 2, "a class without a member is missing, not dropped"
    assert all("probe" in line for line in checkpoints.read_log(half.runs[0].folder)), "Figure 5 needs what the probe finds"
    assert cli.main([*small, "--part", "pairs", "--members", "1:1"]) == 0 and "trained: 2 of 2" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data/runs").rglob("*.safetensors")}
    E = ensemble.train_part(settings, ensemble.part_images(settings, "pairs"), "pairs", engine="cpu")
    assert E.missing == [] and before == {path: path.stat().st_mtime_ns for path in (tmp_path / "data/runs").rglob("*.safetensors")}, "trained again"
    for wrong, message in (("3", "--members 3 is not within 1:2"), ("x", "cannot read --members 'x'")):
        assert cli.main([*small, "--part", "pairs", "--members", wrong]) == 2 and message in capsys.readouterr().err


def test_minutes_end_training_with_a_code_of_its_own(small, capsys):
    from acgan import config, costs
    assert cli.main([*small, "--part", "grid", "--minutes", "0.00001"]) == 3
    said = capsys.readouterr()
    assert "the same command goes on" in said.out and said.err == ""
    made = costs.made_of(config.profile("small"), "grid")
    assert len(made) == 3 and 0 < max(made.values()) and min(made.values()) < 4
    assert cli.main([*small, "--part", "grid"]) == 0 and "trained: 3 of 3" in capsys.readouterr().out
    assert set(costs.made_of(config.profile("small"), "grid").values()) == {4}


def test_bench_and_jobs_reach_their_functions(monkeypatch, capsys):
    import sys
    import types
    from acgan import runner
    got = []
    fake = types.ModuleType("acgan.bench")
    fake.main = lambda **words: got.append(words)
    monkeypatch.setitem(sys.modules, "acgan.bench", fake)
    monkeypatch.setattr("acgan.bench", fake, raising=False)
    assert cli.main(["bench", "--quick", "--device", "cpu", "--only", "metrics", "--out", "x"]) == 0
    assert got == [{"device": "cpu", "quick": True, "out": "x", "only": ["metrics"]}]
    monkeypatch.setattr(runner, "run", lambda *words, **how: got.append(how))
    assert cli.main(["reproduce", "--jobs", "3", "--memory", "2"]) == cli.main(["reproduce"]) == 0
    assert got[1:] == [{"jobs": 3, "memory": 2e9}, {"jobs": None, "memory": None}]


def test_processes_and_codes(tmp_path):
    wrong = acgan("sample", "nowhere", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "") and "Traceback" not in wrong.stderr


def test_ones_own_folder_from_images_to_a_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACGAN_WORK", str(tmp_path / "work"))
    for name, colour in (("red", (200, 30, 30)), ("green", (20, 180, 40)), ("blue", (10, 20, 220))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (40, 48), tuple(min(255, v + 3 * i) for v in colour)).save(tmp_path / "photos" / name / f"{i}.png")
    small = ["--steps", "3", "--width", "0.05", "--batch", "6", "--device", "cpu", "--out", str(tmp_path / "runs")]
    assert cli.main(["train", str(tmp_path / "photos"), "--split", "2", *small]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "of 3 classes at 32 px; 2 model(s), 3 steps each" in said
    sheets = [tmp_path / "a.png", tmp_path / "b.png"]
    for sheet in sheets:
        assert cli.main(["sample", str(tmp_path / "runs"), "--class", "red", "-n", "4", "--out", str(sheet), "--images", str(tmp_path / "single"),
                         "--device", "cpu"]) == 0
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    single = sorted((tmp_path / "single" / "red").glob("*.png"))
    assert len(single) == 4 and Image.open(single[0]).size == (32, 32)
    assert cli.main(["sample", str(tmp_path / "runs"), "--class", "pink"]) == 2
    assert "unknown class 'pink': choose one of blue, green, red" in capsys.readouterr().err
    run = next(p for p in (tmp_path / "runs").iterdir() if (p / "config.json").is_file())
    assert cli.main(["sample", str(run), "--out", str(tmp_path / "c.png"), "--device", "cpu"]) == 0

    assert cli.main(["score", str(tmp_path / "runs"), str(tmp_path / "photos"), "--per-class", "20", "--splits", "2", "--epochs", "1",
                     "--device", "cpu"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "resnet20" in said.lower() and "Fréchet distance, ResNet-20" in said and "mean MS-SSIM" in said and "accuracy" in said and "Inception" not in said


@pytest.mark.parametrize("words, code, said", [(["--version"], 0, "acgan 0."), (["fly"], 2, "invalid choice"), ([], 2, "required")])
def test_words_that_are_not_commands(words, code, said, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == code and said in "".join(capsys.readouterr())


def test_ctrl_c_is_130(monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt
    monkeypatch.setattr(cli, "plan", stop)
    assert cli.main(["plan"]) == 130 and "goes on from here" in capsys.readouterr().err

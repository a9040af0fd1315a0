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
    (["sample", "nowhere"], "holds no trained model"),
    (["score", "nowhere", "blossoms"], "holds no trained model")])
def test_a_mistake_is_one_line_and_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACGAN_HOME", HOME)
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and message in said.err and said.err.startswith("acgan: ")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size], "something was half-written"


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
    assert "resnet20" in said.lower() and "FID" in said and "mean MS-SSIM" in said and "accuracy" in said and "Inception" not in said


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

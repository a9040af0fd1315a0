"""`acgan analyse`: anybody's folder of samples, mistakes in one line, planted faults named, nothing half-written."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import acgan
from acgan import cli, config, data, samples_report
from acgan.config import UserError, home

HOME = str(home())
pytestmark = pytest.mark.usefixtures("one_thread")


def write(images, target, suffix=".png"):
    """The ImageSet `images` as a folder of class folders."""
    for i, (pixels, k) in enumerate(zip(images.images, images.labels.tolist())):
        path = Path(target, images.classes[k], f"{i:05d}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return Path(target)


def flowers(split="train", seed=0, per_class=40):
    return data.load("blossoms", split, 32, n_classes=3, per_class=per_class, seed=seed)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """samples/ (good ones), real/train, real/test."""
    folder = tmp_path_factory.mktemp("analyse")
    write(flowers(seed=1), folder / "samples")
    write(flowers(), folder / "real" / "train")
    write(flowers("test"), folder / "real" / "test")
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """A folder of one's own with links to the images, as the current one."""
    for name in ("samples", "real"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACGAN_HOME", HOME)
    return tmp_path


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def odd_samples(folder):
    """Folders of samples that cannot be measured, by name."""
    first = flowers().classes[0]
    small = data.load("blossoms", "train", 16, n_classes=3, per_class=3)
    write(small, folder / "small")
    write(replace(small, classes=["0", "1", "2"]), folder / "numbers")
    write(flowers(per_class=3), folder / "corrupt")
    (folder / "corrupt" / first / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"no image" * 9)
    (folder / "none" / first).mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "wide" / first).mkdir(parents=True)
    Image.new("RGB", (48, 32)).save(folder / "wide" / first / "a.png")
    write(flowers(per_class=1), folder / "alone")


@pytest.mark.parametrize("words, message", [
    (["samples"], "acgan analyse needs --real"),
    (["nowhere", "--real", "real"], "cannot read the folder nowhere"),
    (["samples", "--real", "nowhere"], "unknown data set 'nowhere'"),
    (["samples", "--real", "no/where"], "cannot read the folder no/where"),
    (["samples", "--real", "cifar11"], "unknown data set 'cifar11'"),
    (["empty", "--real", "real"], "empty holds no class folders"),
    (["none", "--real", "real"], "the folder of samples holds no images (.png"),
    (["numbers", "--real", "real", "--resolution", "32"], "no class in common: the samples have 0, 1, 2; the real images 000-"),
    (["small", "--real", "real"], "samples of 16x16 and real images of 32x32 pixels): --resolution 16 crops and resizes both"),
    (["wide", "--real", "real"], "not of one square size (samples of 48x32 pixels): --resolution 32"),
    (["corrupt", "--real", "real"], "x.png: Truncated File Read; remove it"),
    (["corrupt", "--real", "real", "--resolution", "32"], "x.png: Truncated File Read; remove it"),
    (["alone", "--real", "real"], "no class can be measured"),
    (["samples", "--real", "cifar10", "--resolution", "8"], "resolution must be a whole number from 16 to 4096"),
    (["samples", "--real", "real", "--per-class", "1"], "per_class must be a whole number from 2"),
    (["samples", "--real", "real", "--classifier", "no-such"], "no-such/classifier.json is missing"),
    (["samples", "--real", "real", "--inception", "no-such"], "no weights at no-such"),
    (["samples", "--real", "real", "--device", "tpu"], "unknown device 'tpu'"),
    (["samples", "--real", "real", "--out", "taken"], "taken holds notes.txt, which acgan analyse did not write"),
    (["samples", "--real", "real", "--out", "taken/notes.txt"], "notes.txt is a file"),
    (["samples", "--real", "real", "--out", "samples/report"], "lies among the images")])
def test_a_mistake_is_one_line_and_code_2_and_leaves_nothing(words, message, here, capsys):
    odd_samples(here)
    (here / "taken").mkdir()
    (here / "taken" / "notes.txt").write_text("mine")
    before = contents(here)
    assert cli.main(["analyse", *words]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("acgan: ")
    assert message in said.err
    assert contents(here) == before, "something was written"


def test_real_images_get_a_clean_bill_and_the_report_replaces_itself(here, capsys):
    words = ["analyse", "samples", "--real", "real", "--out", "report", "--device", "cpu"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["None of 3 classes is collapsed.", "None of 3 classes is memorised.", "Every class was judged.",
                    f"report: {Path('report') / 'report.html'}"]
    found = json.loads((here / "report" / "analysis.json").read_text())
    assert found["collapsed"] == found["memorised"] == found["checkerboard"] == []
    assert sorted(found["files"]) == sorted(contents(here / "report"))
    assert "accuracy, resolution and score" in found["left_out"]
    for one in found["classes"].values():
        assert one["measures"]["ms_ssim"]["repeated"] == pytest.approx(1)
        assert one["measures"]["copies"]["stored"] > 0.9
    page = (here / "report" / "report.html").read_text()
    assert "None of 3 classes is collapsed." in page
    assert "they need a classifier" in page
    assert not [word for word in ("http://", "https://", "<script", HOME) if word in page]
    assert cli.main(words) == 0
    again = json.loads((here / "report" / "analysis.json").read_text())
    for one in (found, again):
        one["provenance"].pop("seconds")
    assert again == found, "the same command gives the same numbers"
    assert not list(here.glob(".report*"))


def test_planted_faults_are_named(here):
    fresh, train = flowers(seed=2), flowers()
    pixels = fresh.images.clone()
    pixels[fresh.of_class(0)] = fresh.images[fresh.of_class(0)[torch.arange(40) % 5]]
    near = train.images[train.of_class(2)].int() + torch.randint(-6, 7, (40, 3, 32, 32))
    pixels[fresh.of_class(2)] = near.clamp(0, 255).to(torch.uint8)
    write(replace(fresh, images=pixels), here / "planted")
    assert cli.main(["analyse", "planted", "--real", "real", "--out", "report", "--device", "cpu"]) == 0
    found = json.loads((here / "report" / "analysis.json").read_text())
    assert found["collapsed"] == fresh.classes[:1]
    assert found["memorised"] == fresh.classes[2:]
    assert "1 of 3 classes is collapsed: 000-" in (here / "report" / "report.html").read_text()


def test_any_program_s_files_are_read(here):
    """Grey, transparent, palette and JPEG files, a missing class, a foreign one, a class of few images."""
    fresh, target = flowers(seed=1, per_class=12), here / "mixed"
    forms = [("L", "a.png"), ("RGBA", "b.png"), ("P", "c.png"), ("RGB", "d.jpg"), ("RGB", "e.webp"), ("LA", "f.PNG")]
    for i, pixels in enumerate(fresh.images[:12]):
        mode, name = forms[i % 6]
        path = target / fresh.classes[0] / f"{i}{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert(mode).save(path)
    write(replace(fresh.take([24]), classes=["a", fresh.classes[1], "b"], labels=torch.tensor([1])), target)
    write(replace(fresh.take([24]), classes=["foreign", "a", "b"], labels=torch.tensor([0])), target)
    (target / fresh.classes[0] / "notes.txt").write_text("not an image")
    answer = acgan.analyse(target, here / "real", device="cpu")
    assert answer.summary["classes"][fresh.classes[0]]["n"]["samples"] == 12
    assert answer.summary["missing"] == {"samples": [fresh.classes[2]], "real": ["foreign"]}
    assert answer.summary["not_judged"] == {fresh.classes[1]: {"class": "1 samples; 2 are needed"}}
    assert f"Not judged in full: {fresh.classes[1]}." in str(answer)
    assert "The samples have no images of 002-" in str(answer)


def test_a_class_of_few_samples_is_measured_and_not_judged():
    few = flowers(seed=1, per_class=5)
    answer = acgan.analyse(few, (flowers(), flowers("test")), device="cpu")
    assert answer.collapsed == answer.memorised == []
    assert all(one["collapsed"] is None for one in answer.summary["classes"].values())
    assert "No class could be judged as collapsed or not." in str(answer)
    assert "only 5 samples, 10 are needed" in str(answer)
    assert answer.frame()["ms_ssim: samples"].notna().all()


def test_sizes_are_changed_only_when_asked(here):
    write(data.load("blossoms", "train", 64, n_classes=3, per_class=12, seed=1), here / "large")
    with pytest.raises(UserError, match="samples of 64x64 and real images of 32x32.*--resolution 32"):
        acgan.analyse(here / "large", here / "real")
    answer = acgan.analyse(here / "large", here / "real", resolution=32, device="cpu")
    assert answer.summary["resolution"] == answer.summary["settings"]["resolution"] == 32


def test_odd_sizes_and_a_flat_folder(here):
    write(flowers(), here / "flat")
    answer = acgan.analyse(here / "samples", here / "flat", resolution=33, device="cpu")
    assert answer.summary["images"] == {"samples": 120, "samples measured": 120, "reference": 60, "held-out": 60}
    assert answer.collapsed == answer.memorised == []


def test_a_classifier_is_trained_only_when_asked_and_can_be_named(here):
    words = ["analyse", "samples", "--real", "real", "--device", "cpu", "--per-class", "12"]
    assert cli.main([*words, "--out", "first", "--classifier", "train", "--epochs", "2"]) == 0
    assert cli.main([*words, "--out", "second", "--classifier", "first/classifier"]) == 0
    first, second = (json.loads((here / name / "analysis.json").read_text()) for name in ("first", "second"))
    assert first["overall"]["accuracy"] == second["overall"]["accuracy"]
    assert {row["measure"] for row in first["scores"]} == {"ResNet-20 score", "Fréchet distance, ResNet-20"}
    assert "accuracy, resolution and score" not in first["left_out"]
    assert (here / "second" / "resolution.csv").is_file()
    assert not (here / "second" / "classifier").exists()
    assert "ResNet-20 score" in (page := (here / "second" / "report.html").read_text())
    assert ">Inception" not in page
    write(replace(flowers(seed=1, per_class=12), classes=["x", "y", "z"]), here / "foreign" / "train")
    with pytest.raises(UserError, match="no class 'x'"):
        acgan.analyse(here / "foreign" / "train", here / "foreign" / "train", classifier=here / "first" / "classifier")


def test_a_failure_leaves_the_former_report(here, monkeypatch):
    answer = acgan.analyse(here / "samples", here / "real", here / "report", device="cpu")
    before = contents(here / "report")
    monkeypatch.setattr(samples_report, "class_frame", lambda summary: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        answer.save(here / "report")
    with pytest.raises(KeyboardInterrupt):
        answer.save(here / "other")
    assert contents(here / "report") == before
    assert sorted(path.name for path in here.iterdir()) == ["real", "report", "samples"]


def test_a_killed_process_leaves_nothing(here):
    env = os.environ | {"ACGAN_HOME": HOME, "PYTHONPATH": HOME}
    command = [sys.executable, "-m", "acgan.cli", "analyse", "samples", "--real", "real", "--out", "report"]
    process = subprocess.Popen(command, cwd=here, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (here / "report").exists() or (here / "report" / "analysis.json").is_file()


def test_a_report_made_by_it_and_changed_is_kept(here):
    acgan.analyse(here / "samples", here / "real", here / "report", device="cpu")
    (here / "report" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds mine.txt, which acgan analyse did not write"):
        acgan.analyse(here / "samples", here / "real", here / "report", device="cpu")
    assert (here / "report" / "mine.txt").read_text() == "mine"
    config.write_json(here / "stranger" / "analysis.json", {"files": ["analysis.json"]})
    with pytest.raises(UserError, match="holds analysis.json, which acgan analyse did not write"):
        samples_report.check_target(here / "stranger")
    shutil.rmtree(here / "stranger")

"""Sections 4.1 and 5: what is planted in the drawn images must be found, and the two studies must run on any profile."""

import json

import pytest
import torch

from acgan import claims
from acgan.classifiers import accuracy_by_resolution, by_class, correct, of_discriminator, sign_flip, train_resnet20
from acgan.data import ImageSet, load
from acgan.training import GANConfig, TrainState, train_steps, run_config
from studies import PROFILE, TINY, study

SIZES = (4, 8, 16, 32, 64)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sets():
    """Three classes of the garden: one of its own colour, and two that differ by the pattern on their petals alone."""
    return tuple(load("blossoms", split, 32, n_classes=4, per_class=n).subset([0, 2, 3]) for split, n in (("train", 100), ("test", 40)))


@pytest.fixture(scope="module")
def seen(sets, tmp_path_factory):
    """{resize: bool [S,N]} of real test images for a small ResNet-20 that was trained on real images at 32 pixels."""
    torch.set_num_threads(1)
    C = train_resnet20(*sets, epochs=12, batch=16, width=0.5, lr=0.05, device="cpu", out=tmp_path_factory.mktemp("net") / "net")
    assert C.accuracy["test"] > 0.9
    return C, {how: accuracy_by_resolution(C, sets[1], SIZES, how) for how in ("tf1", "antialias")}


def test_accuracy_of_real_images_rises_with_resolution(sets, seen):
    _, right = seen
    for how in right:
        mean = right[how].double().mean(1)
        assert (mean[1:4] >= mean[:3]).all() and mean[3] - mean[1] > 0.2, (how, mean)
        assert sign_flip(right[how][3].double() - right[how][1].double()) < 0.01
        assert claims.trend(right[how][:4].double().tolist()).outcome == "agrees"


def test_the_classes_that_need_pixels_are_the_ones_that_lose(sets, seen):
    _, right = seen
    needs = torch.tensor(sets[1].truth["needs_pixels"])
    assert needs.tolist() == [8, 16, 16]
    for how in right:
        table = by_class(right[how], sets[1].labels, 3)
        assert table[3, needs == 16].mean() > 0.9 and table[1, needs == 16].mean() < 0.75


def test_enlarging_adds_nothing_and_a_smaller_model_stops_at_its_size(sets, seen):
    C, right = seen
    assert torch.equal(right["tf1"][4], right["tf1"][3])
    small = load("blossoms", "test", 16, n_classes=4, per_class=40).subset([0, 2, 3])               # a perfect model of half the size
    theirs = accuracy_by_resolution(C, small, SIZES)
    assert torch.equal(theirs[3], theirs[2]) and theirs[2].double().mean() <= right["tf1"][3].double().mean()
    flat = 100 * (by_class(theirs, small.labels, 3)[3] - by_class(theirs, small.labels, 3)[2])
    assert claims.equivalence(1.0, flat.tolist(), clusters=[0, 1, 2]).outcome == "agrees"


def test_real_images_bound_noise_and_equal_themselves(sets, seen):
    C, right = seen
    noise = ImageSet(torch.randint(0, 256, sets[1].images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
                     sets[1].labels, sets[1].classes, "noise", "generated", "0" * 12)
    guess = accuracy_by_resolution(C, noise, SIZES)
    assert guess[3].double().mean() < 0.5 < right["tf1"][3].double().mean()
    other = load("blossoms", "test", 32, n_classes=4, per_class=80).subset([0, 2, 3])
    held_out = other.take(torch.cat([other.of_class(k)[40:] for k in range(3)]))                    # a generator that draws real images
    gap = accuracy_by_resolution(C, held_out, SIZES)[3].double().mean() - right["tf1"][3].double().mean()
    assert abs(gap) < 0.1


def test_more_labels_help_a_supervised_discriminator(sets):
    member = {"width": 0.05, "width_d": 0.125, "batch": 16, "z_dim": 10, "lr_d": 1e-3, "dropout": 0.0, "noise_std": 0.0}
    found = {}
    for share in (0.01, 1.0):
        t = TrainState(run_config(GANConfig(objective="classifier", labelled=share, **member), sets[0]), sets[0])
        train_steps(t, 60)
        found[share] = correct(of_discriminator(t.D, sets[0].classes, sets[0].images, "cpu"), sets[1]).double().mean().item()
    assert found[1.0] > found[0.01] + 0.1 and found[1.0] > 0.6, found


def test_study_of_discriminability_when_several_runs_share_the_classes(monkeypatch, tmp_path, capsys):
    """The paper's own setting, 100 models of 10 classes: the classes of one run are one unit in every interval and test."""
    shared = PROFILE | {"model": PROFILE["model"] | {"classes_per_member": 2}}
    names = study("03_discriminability", "odena2017", monkeypatch, tmp_path, shared, per_class=5, subsets=5)
    assert names["result"].numbers["units"] == [0, 0, 1]
    assert len(set(claims.records("tiny")["acgan-4.1-a"]["evidence"]["clusters"])) == 2


@pytest.mark.parametrize("sizes", ["two", "one"])
def test_study_of_discriminability(sizes, monkeypatch, tmp_path, capsys):
    high = {"full_res": {"steps": 2, "images": {"resolution": 64}, "gan": TINY}, "classifier_full_res": PROFILE["classifier"]}
    names = study("03_discriminability", "odena2017", monkeypatch, tmp_path, PROFILE | (high if sizes == "two" else {}), per_class=5, subsets=5)
    folder = tmp_path / "figures" / "tiny"
    made = claims.records("tiny")
    assert set(made) == {"acgan-abs-a", "acgan-5-f", "acgan-fig2", *(f"acgan-4.1-{x}" for x in "abcdefghijk")}
    assert names["result"].numbers["sizes"] == ([8, 16, 32, 64, 128] if sizes == "two" else [4, 8, 16, 32, 64])
    assert (made["acgan-4.1-g"]["skipped"] == "") == (sizes == "two")
    assert {path.stem for path in folder.glob("*.png")} == {"fig2_discriminability", "fig2_images"}
    table = json.loads((folder / "resolution_tests.json").read_text())["rows"]
    assert len(table) == (18 if sizes == "two" else 11) and all(0 <= row["averaged: p over images"] <= 1 for row in table)
    assert all(row["every k-th pixel: points"] == 0 for row in table if row["first"].endswith(f" {names['result'].numbers['sizes'][4]}"))
    shown = json.loads((folder / "fig2_discriminability.json").read_text())
    assert shown["n"] == 15 and shown["caption"].endswith("profile tiny.")                            # images of each set
    assert len(shown["numbers"]["sets"]) == (3 if sizes == "two" else 2)


def test_study_of_semi_supervised_learning(monkeypatch, tmp_path, capsys):
    semi = {"steps": 2, "axes": {"labelled": [0.25, 1.0], "objective": ["acgan", "classifier"]}, "n_seeds": 2, "gan": TINY}
    names = study("12_semi_supervised", "odena2017", monkeypatch, tmp_path, PROFILE | {"semi_supervised": semi}, per_class=5, score_n=4)
    made, folder = claims.records("tiny"), tmp_path / "figures" / "tiny"
    assert set(made) == {"acgan-5-c", "acgan-5-d"} and list(names["result"].gains()) == [6, 24]
    assert list(made["acgan-5-c"]["evidence"]["parts"]) == ["6 labels"]                           # all labels: nothing is missing
    rows = json.loads((folder / "semi_supervised_table.json").read_text())["rows"]
    assert len(rows) == 8 and sum(row["score"] is not None for row in rows) == 4
    numbers = json.loads((folder / "semi_supervised.json").read_text())["numbers"]
    pairs = torch.tensor([[row["score"], row["accuracy (%)"]] for row in numbers["trainings"] if row["score"] is not None], dtype=torch.float64)
    r = torch.corrcoef(pairs.T)[0, 1].item()                                                        # the mean of the products is r
    assert [made["acgan-5-d"]["evidence"][key] for key in "xy"] == pairs.T.tolist() and abs(r) <= 1
    assert names["result"].agreement()["r"] == pytest.approx(r)
    assert (folder / "results" / "semi_supervised.json").is_file()

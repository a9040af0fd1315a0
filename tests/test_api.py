"""`import acgan` as somebody with a folder of images uses it: one configuration gives a run, several give an ensemble, both sample."""
from dataclasses import asdict, replace

import numpy
import pytest
import torch
from PIL import Image

import acgan
from acgan import nulls
from acgan.checkpoints import Run, Sampler, open_run
from acgan.ensemble import Ensemble
from acgan.training import GANConfig

TINY = GANConfig(width=0.05, batch=4, init_std=0.3)     # large weights: untrained samples differ too
FACE = ("sample", "sample_set", "classes", "missing", "owners", "owner", "networks", "resolution", "runs", "device")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """A folder with a folder of PNG files for each of two classes."""
    folder, rng = tmp_path_factory.mktemp("cats"), numpy.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=numpy.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_in_and_samples_of_a_class_out(cats, tmp_path, monkeypatch):
    monkeypatch.setenv("ACGAN_WORK", str(tmp_path))
    run = acgan.train(f"{cats}/", TINY, steps=2, resolution=64, device="cpu")
    assert isinstance(run, Run)
    images = run.sample("cat", 16)
    assert images.dtype == torch.uint8
    assert images.shape == (16, 3, 64, 64)
    assert run.folder.parent == tmp_path / "runs"
    assert run.step == 2
    assert torch.equal(open_run(run.folder).sample("cat", 16), images)
    assert torch.equal(Ensemble([run]).sample("cat", 16), images)
    assert torch.equal(run.sample(0, 16, seed=0), images)
    assert not torch.equal(run.sample("cat", 16, seed=1), images)
    assert not torch.equal(run.sample("dog", 16), images)


def test_several_configurations_are_one_sampler(cats, tmp_path):
    members = [GANConfig(**asdict(TINY) | {"classes": (k,), "seed": k}) for k in range(2)]
    how = {"steps": 1, "resolution": 32, "out": tmp_path, "device": "cpu"}
    model = acgan.train(cats, members, **how)
    assert isinstance(model, Ensemble)
    assert model.classes == ["cat", "dog"]
    assert model.sample_set(2).images.shape == (4, 3, 32, 32)
    alone = acgan.train(cats, members[1], **how)
    assert alone.classes == ["dog"]
    assert torch.equal(alone.sample("dog", 3), model.sample("dog", 3))


def test_a_run_and_an_ensemble_have_one_face_and_one_null(cats, tmp_path):
    how = {"steps": 1, "resolution": 32, "out": tmp_path, "device": "cpu"}
    run, model = acgan.train(cats, TINY, **how), acgan.train(cats, [TINY], **how)
    for one in (run, model):
        assert isinstance(one, Sampler)
        assert not [name for name in FACE if not hasattr(one, name)]
    assert torch.equal(run.sample_set(3).images, model.sample_set(3).images)
    assert run.sample_set(3).fingerprint == model.sample_set(3).fingerprint
    assert run.owners() == model.owners()
    untrained = [nulls.Untrained(one, 1).sample("cat", 2) for one in (run, model)]
    assert torch.equal(*untrained)
    assert not torch.equal(untrained[0], run.sample("cat", 2))


def test_what_a_schedule_or_an_engine_says_is_said_by_name(cats, tmp_path):
    run = acgan.train(cats, replace(TINY, seed=2), steps=3, resolution=32, out=tmp_path, device="cpu", log_every=1, keep_steps=(2,))
    assert [line["step"] for line in run.log()] == [1, 2, 3]
    assert open_run(run.folder, 2).step == 2
    again = acgan.train(cats, replace(TINY, seed=2), steps=3, resolution=32, out=tmp_path, device="cpu", resume=False)
    assert [line["step"] for line in again.log()] == [3]
    with pytest.raises(TypeError, match="no_such_setting"):
        acgan.train(cats, TINY, steps=3, resolution=32, out=tmp_path, no_such_setting=1)

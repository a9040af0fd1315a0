"""The shorter step that a GPU takes, tried without one: as a GPU runs it but for the device, against the plain step."""
import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import acgan.gpu_steps
import acgan.training
from acgan.checkpoints import restore, state_dict
from acgan.data import load
from acgan.gpu_steps import GPUSteps, absorb_biases, absorbs_bias, gpu_chunk, is_covered, next_batches
from acgan.models import NoiseSampler, NoiseTape, noise_spec
from acgan.populations import member_chunk
from acgan.training import GANConfig, TrainState, run_config, train_steps

BASE = GANConfig(width=0.1, batch=12, noise_std=0.1)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_WORK", str(tmp_path_factory.mktemp("work")))
        yield load("blossoms", resolution=32, n_classes=4, per_class=40)


@pytest.fixture
def bfloat16(monkeypatch):
    """A GPU's precision on a CPU."""
    for module in (acgan.training, acgan.gpu_steps):
        monkeypatch.setattr(module, "precision", lambda device: torch.autocast("cpu", dtype=torch.bfloat16))


def made(images, gan=BASE):
    return TrainState(run_config(gan, images), images)


def chunk(steps, n):
    return gpu_chunk(steps, *next_batches(steps.t.batches, n))


def test_in_bfloat16_with_noise_and_dropout_it_learns_what_the_plain_step_learns(images, bfloat16):
    """Noise comes in another order, so ends are compared: losses of the last 10 of 20 steps, means of two seeds, within a tenth."""
    ends = {"plain": [], "short": []}
    for seed in range(2):
        plain, short = (made(images, replace(BASE, width=0.05, batch=8, seed=seed)) for _ in range(2))
        ends["plain"].append(train_steps(plain, 20)[-10:, :6].mean(0))
        ends["short"].append(chunk(GPUSteps(short), 20)[-10:, :6].mean(0))
        assert all(p.dtype == torch.float32 for net in (short.G, short.D) for p in net.parameters())
    a, b = (torch.stack(ends[name]).mean(0) for name in ("plain", "short"))
    assert torch.allclose(a, b, rtol=0.1, atol=0.05), (a, b)


class Operations(TorchDispatchMode):
    """Counts the operations that would be kernels on a GPU, and refuses those that wait for one or copy from the host."""
    views = {"view", "_unsafe_view", "slice", "select", "transpose", "t", "permute", "expand", "unsqueeze", "squeeze", "detach", "alias", "split",
             "as_strided", "unbind", "empty", "empty_like", "new_empty", "new_empty_strided", "_reshape_alias", "unfold", "split_with_sizes"}

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "lift_fresh", "masked_select"), name
        self.count += name not in self.views
        return function(*args, **kwargs or {})


def test_a_step_has_few_operations_and_waits_for_nobody(images, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "one_hot", lambda c, n: (c[..., None] == torch.arange(n)).long())   # on a CPU it looks
    steps = GPUSteps(made(images), torch.float32)
    rows = next_batches(steps.t.batches, 10)
    gpu_chunk(steps, *rows)
    with Operations() as short:
        gpu_chunk(steps, *rows)
    plain = made(images)
    sampler = NoiseSampler([noise_spec(plain.D)], BASE.batch, at_once=True)
    monkeypatch.setattr(plain, "noise", lambda n: NoiseTape([[x[0] for x in entry] for entry in sampler.draw([plain.rng])]))
    with Operations() as long:
        member_chunk(plain, *rows)
    assert short.count <= 340 * 10 and short.count < 0.8 * long.count, (short.count, long.count)


@pytest.mark.parametrize("begin, go_on", [("short", "plain"), ("plain", "short"), ("short", "short")])
def test_a_checkpoint_passes_between_the_two(images, begin, go_on):
    """What a GPU has trained goes on elsewhere and the other way round; between the two nothing is lost."""
    take = {"plain": train_steps, "short": lambda t, n: chunk(GPUSteps(t, torch.float32), n)}
    calm = replace(BASE, noise_std=0.0, dropout=0.0)
    straight, first, second = (made(images, calm) for _ in range(3))
    take[begin](first, 3)
    first.step = 3
    restore(second, state_dict(first))
    got = take[go_on](second, 3)
    take[begin](straight, 3)
    want = take[go_on](straight, 3)
    assert torch.allclose(got[:, :6], want[:, :6], rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(second.G.parameters(), straight.G.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_biases_that_cancel_stay_at_zero_and_evaluation_does_not_notice(images):
    t = made(images)
    train_steps(t, 4)
    z, c = t.draw()
    before = t.G.eval()(z, c)
    t.G.train()
    steps = GPUSteps(t, torch.float32)
    assert torch.allclose(t.G.eval()(z, c), before, atol=1e-5)
    t.G.train()
    chunk(steps, 3)
    assert all(not block.op.bias.any() for net in (t.G, t.D) for block in net.blocks if absorbs_bias(block))
    assert t.G.blocks[1].bn.num_batches_tracked == 2 * 7 and t.D.blocks[1].bn.num_batches_tracked == 3 * 7
    absorb_biases(t.G)


def test_real_and_fake_images_have_statistics_of_their_own(images):
    """Were they normalised together, images of one side would change the outputs of the other."""
    steps = GPUSteps(made(images, replace(BASE, noise_std=0.0, dropout=0.0)), torch.float32)
    x, other, fakes = (torch.randn(12, 3, 32, 32) + shift for shift in (0, 3, 1))
    outputs = [steps.see(torch.cat([real, fakes]), 2)[0][12:] for real in (x, other)]
    together = [steps.see(torch.cat([real, fakes]), 1)[0][12:] for real in (x, other)]
    assert torch.allclose(*outputs, atol=1e-5) and not torch.allclose(*together, atol=1e-2)


def test_what_is_not_covered_takes_the_plain_step(images):
    for other in ({"joint_bn": True}, {"reuse_fakes": True}, {"label_stream": "own"}, {"objective": "classifier"}, {"spec": "zhou2018"}):
        assert not is_covered(made(images, replace(BASE, **other))), other


def test_working_copies_go_with_their_steps(images):
    """Without Python's collector: what waits for it holds a GPU's memory."""
    gc.disable()
    try:
        steps = GPUSteps(made(images), torch.float32)
        chunk(steps, 1)
        gone = [weakref.ref(net) for net in (steps.G, steps.D, steps.t.D)]
        del steps
        assert [one() for one in gone] == [None] * 3
    finally:
        gc.enable()

"""Many at once is one at a time: every fused backend against the plain loop, in any company, across checkpoints, groups and time."""
import contextlib
import gc
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import acgan.data
import acgan.checkpoints
import acgan.models
import acgan.populations
import acgan.training
from acgan.config import UserError
from acgan.data import load
from acgan.models import NoiseTape
from acgan.models import noise_spec
from acgan.populations import BACKENDS, BatchedTrainer, CUDAGraphRunner, Population, fused_chunk, groups_that_fit, member_bytes, member_chunk, next_batches
from acgan.training import METRICS, GANConfig, TrainState, discriminator_step, generator_step, run_config, train_steps
from acgan.checkpoints import Schedule, read_log, restore, state_dict, steps_in
from acgan.populations import Engine, TimeBudgetExceeded, train

BASE = GANConfig(width=0.05, batch=8)
TRIO = [replace(BASE, seed=1, classes=(0, 1)), replace(BASE, seed=2, classes=(1, 3), lr_g=1e-4, lr_d=3e-4, noise_std=0.0),
        replace(BASE, seed=3, classes=(0, 3), noise_std=0.2, loss_weights={"class": 2.0, "source_fake": 0.5}, labelled=0.5)]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: recording and replaying steps cannot be tried without one")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACGAN_WORK", str(tmp_path_factory.mktemp("work")))
        yield load("blossoms", resolution=32, n_classes=4, per_class=30)


@pytest.fixture
def double(monkeypatch):
    """Everything in float64, where rounding is too small to be blown up by training."""
    for module in (acgan.data, acgan.populations):
        monkeypatch.setattr(module, "to_float", lambda x: x.double() / 127.5 - 1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made(images, members=TRIO, device="cpu"):
    return [TrainState(run_config(m, images), images, device) for m in members]


def gap(a, b, whole=lambda name: True):
    """The largest difference between the networks of two TrainStates, relative to the size of each tensor, and its name."""
    worst = (0.0, "")
    for which in "GD":
        nets = getattr(a, which), getattr(b, which)
        for name, x in nets[0].state_dict().items():
            y = nets[1].state_dict()[name]
            if x.is_floating_point() and whole(name):
                worst = max(worst, (((x - y).norm() / x.norm().clamp(min=1e-2)).item(), f"{which}.{name}"))
            elif whole(name):
                assert torch.equal(x, y), name
    return worst


def matters(name):
    """Not a bias that batch normalisation takes out again: its gradient is rounding alone, and Adam scales that up to full steps."""
    return not name.endswith((".op.bias", "running_mean"))


ARCHITECTURES = {"plain": {}, "am-gan": {"spec": "zhou2018-conditional", "objective": "amgan", "label_input": "cbn", "width": 0.02},
                 "am-gan's program": {"spec": "zhou2018", "objective": "amgan", "labels": "dynamic", "width": 0.02, "data_init": "fake",
                                      "noise_dist": "truncated", "init_dist": "truncated", "init_std": 0.05, "fake_logit": "zero",
                                      "bn_eps": 1e-3, "slope": 0.3, "lr_schedule": "staircase", "lr_decay_steps": 2},
                 "report": {"spec": "tay2021-1", "label_input": "embedding"}, "input noise": {"noise_at": "input", "padding": "torch"},
                 "classifier": {"objective": "classifier", "dropout": 0.0}, "entropies": {"objective": "catgan"},
                 "unlabelled": {"objective": "amgan-unsupervised", "labelled": 0.5,
                                "label_smoothing": {"real": 0.1, "fake": 0.2, "g": 0.05}}, "dynamic": {"objective": "amgan", "labels": "dynamic"},
                 "shared batch norm": {"joint_bn": True, "ema": 0.9, "noise_dist": "uniform", "bn_eps": 1e-3, "bn_momentum": 0.01},
                 "report's program": {"reuse_fakes": True, "class_loss": "linear", "lr_schedule": "linear", "lr_decay_steps": 30,
                                      "z_dist": "uniform"},
                 "report's noise": {"spec": "tay2021-1", "noise_dist": "uniform", "noise_at": "preactivations", "noise_when": "always",
                                    "reuse_fakes": True, "class_loss": "linear", "sampling_bn": "batch"}}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_fused_group_makes_the_loops_numbers(images, double, name):
    """Float64: after 20 steps (4 for the variants) of members that differ in all they may, equal but for rounding."""
    members, n = [replace(m, **ARCHITECTURES[name]) for m in TRIO], 20 if name == "plain" else 4
    alone = made(images, members)
    want = torch.stack([train_steps(t, n) for t in alone])
    many = Population(made(images, members), "grouped", chunk=3)
    got = many.train_steps(n)
    assert got.shape == (3, n, len(METRICS)) and torch.allclose(got, want, rtol=1e-6)
    for t, reference in zip(many.states, alone, strict=True):
        assert gap(reference, t)[0] < 1e-5 and gap(reference, t, matters)[0] < 1e-10
        assert torch.equal(t.rng.get_state(), reference.rng.get_state()) and t.step == reference.step == n
        remaining = [b.order[b.position:] for b in (t.batches, reference.batches)]
        assert torch.equal(*remaining) and torch.equal(t.batches.generator.get_state(), reference.batches.generator.get_state())


def test_float32_stays_within_one_part_in_100000(images):
    """Small learning rates, because at full ones the loop itself, begun one rounding apart, is 1e-2 apart after 20 steps."""
    members = [replace(m, lr_g=m.lr_g / 20, lr_d=m.lr_d / 20, width=0.1) for m in TRIO]
    alone = made(images, members)
    want = torch.stack([train_steps(t, 20) for t in alone])[..., :6]
    many = Population(made(images, members), "grouped")
    assert ((many.train_steps(20)[..., :6] - want).abs() <= 1e-5 * want.abs() + 1e-6).all()
    for t, reference in zip(many.states, alone, strict=True):
        assert gap(reference, t, lambda name: name.endswith("op.weight"))[0] < 1e-5 and gap(reference, t, matters)[0] < 1e-4


def test_a_fused_group_runs_in_bfloat16_as_on_a_gpu(images, monkeypatch):
    """Autocast and noise drawn at once, the GPU's way, on a CPU: the types fit, weights stay float32, the loop's losses to 2 %."""
    draw_ahead = acgan.models.NoiseSampler.__init__
    for module in (acgan.training, acgan.populations):
        monkeypatch.setattr(module, "precision", lambda device: torch.autocast("cpu", dtype=torch.bfloat16))
    monkeypatch.setattr(acgan.models.NoiseSampler, "__init__", lambda self, *args: draw_ahead(self, *args, at_once=True))
    draw = lambda t, n: acgan.models.NoiseSampler([noise_spec(t.D)], n, t.device, torch.bfloat16).draw([t.rng])
    monkeypatch.setattr(TrainState, "noise", lambda t, n: NoiseTape([[numbers[0] for numbers in entry] for entry in draw(t, n)]))
    alone = made(images)
    want = torch.stack([train_steps(t, 3) for t in alone])
    many = Population(made(images), "grouped")
    got = many.train_steps(3)
    assert many.fused.samplers[8].dtype == torch.bfloat16
    assert torch.allclose(got[..., :6], want[..., :6], rtol=0.02, atol=0.01)
    assert all(p.dtype == torch.float32 for t in many.states for p in t.D.parameters())
    assert all(torch.equal(t.rng.get_state(), reference.rng.get_state()) for t, reference in zip(many.states, alone, strict=True))


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU, or copies from the host: neither can be recorded."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "lift_fresh", "masked_select"), name
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_never_waits_for_the_device(images, monkeypatch, backend):
    monkeypatch.setattr(torch.nn.functional, "one_hot", lambda c, n: (c[..., None] == torch.arange(n)).long())   # on a CPU it looks
    states = made(images)
    for t in states:
        sampler = acgan.models.NoiseSampler([noise_spec(t.D)], t.gan.batch)
        monkeypatch.setattr(t, "noise", lambda n, t=t, s=sampler: NoiseTape([[x[0] for x in entry] for entry in s.draw([t.rng])]))
    one, parts = states[0], [next_batches(t.batches, 2) for t in states]
    work, batch = partial(member_chunk, one), parts[0]
    if backend == "grouped":
        work, batch = partial(fused_chunk, BatchedTrainer(states)), [torch.stack(part, 1) for part in zip(*parts, strict=True)]
    work(*batch)
    with NoWaiting():
        assert work(*batch).shape == ((2, 3, len(METRICS)) if backend == "grouped" else (2, len(METRICS)))


def test_company_changes_nothing(images, double):
    """A member in three populations, one of which holds a member whose numbers explode."""
    wild, results = replace(BASE, seed=9, classes=(1, 2), lr_d=1e300, lr_g=1e300), []
    for company in ([TRIO[2]], [TRIO[0], TRIO[2], TRIO[1]], [TRIO[2], wild]):
        states = made(images, company)
        Population(states, "grouped").train_steps(5)
        results.append(states[company.index(TRIO[2])])
    assert not all(p.isfinite().all() for p in states[1].D.parameters())
    assert gap(results[0], results[1], matters)[0] < 1e-13 and gap(results[0], results[2], matters)[0] < 1e-13


def test_on_a_cpu_the_loop_gives_the_same_bits_in_any_company(images):
    alone, many = made(images)[1], Population(made(images))
    want = torch.cat([train_steps(alone, 3), train_steps(alone, 2)])
    assert many.backend == "loop" and torch.equal(torch.cat([many.train_steps(4), many.train_steps(1)], 1)[1], want)
    assert all(torch.equal(a, b) for a, b in zip(state_dict(alone).values(), state_dict(many.states[1]).values(), strict=True))


def test_states_pass_between_the_loop_and_fused_groups(images, double):
    """Loop, fused, loop again, each from the other's checkpoint; and a state put back into a group that is under way."""
    reference, t = made(images)[2], made(images)[2]
    train_steps(reference, 9)
    train_steps(t, 3)
    group = made(images)
    restore(group[2], state_dict(t))
    group[0].step = group[1].step = 3
    many = Population(group, "grouped")
    many.train_steps(3)
    last = restore(made(images)[2], state_dict(group[2]))
    train_steps(last, 3)
    assert gap(reference, last, matters)[0] < 1e-12 and last.step == 9
    train_steps(group[2], 1)                                                  # alone, inside its group
    restore(group[2], state_dict(t))
    many.train_steps(3)
    train_steps(group[2], 3)
    assert gap(reference, group[2], matters)[0] < 1e-12


def test_fused_runs_resume_to_the_same_bits(images, tmp_path):
    often, engine = Schedule(6, log_every=2, checkpoint_every=2), Engine("cpu", "grouped")
    straight = train(TRIO, images, often, engine, tmp_path / "straight")
    train(TRIO, images, replace(often, steps=4), engine, tmp_path / "pieces")
    pieces = train(TRIO, images, often, engine, tmp_path / "pieces")
    for a, b in zip(straight, pieces, strict=True):
        tensors = [net.state_dict() for run in (a, b) for net in run.networks()]
        assert all(torch.equal(tensors[i][key], tensors[i + 2][key]) for i in range(2) for key in tensors[i])
        assert [[line[m] for m in METRICS] for line in a.log()] == [[line[m] for m in METRICS] for line in b.log()]
    mixed = train(TRIO, images, replace(often, steps=8), Engine("cpu", "loop"), tmp_path / "pieces")     # and the loop takes over
    assert [line["step"] for line in mixed[0].log()] == [2, 4, 6, 8]


def test_a_group_with_members_at_different_steps_logs_and_saves_as_if_alone(images, tmp_path):
    schedule, engine = Schedule(12, log_every=4, checkpoint_every=6, keep_steps=(5,)), Engine("cpu", "grouped")
    train(TRIO[0], images, replace(schedule, steps=3), engine, tmp_path)
    runs = train(TRIO, images, schedule, engine, tmp_path)
    for run in runs:
        assert steps_in(run.folder)[-2:] == [5, 12] and [line["step"] for line in run.log()][-5:] == [4, 5, 6, 8, 12]
        assert sum(line["steps"] for line in read_log(run.folder)) == 12


def test_at_most_what_fits_is_alive(images, tmp_path, monkeypatch):
    """Five members and memory for two: groups of 2, 2 and 1, each gone before the next begins."""
    alive, most = weakref.WeakSet(), []

    class Counted(TrainState):
        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)
            gc.collect()
            most.append(len(alive))

    monkeypatch.setattr(acgan.checkpoints, "TrainState", Counted)
    members = [replace(BASE, seed=i) for i in range(5)]
    stays, comes = member_bytes(run_config(BASE, images))
    runs = train(members, images, 2, Engine("cpu", memory=2.5 * stays + comes), tmp_path)
    assert most == [1, 2, 1, 2, 1] and [run.step for run in runs] == [2] * 5
    sizes = [len(group) for group in groups_that_fit([run_config(m, images) for m in members], limit=2.5 * stays + comes)]
    assert sizes == [2, 2, 1]


def test_the_estimate_of_memory_holds_what_autograd_keeps(images):
    for how in ({}, {"width": 0.5}, {"spec": "zhou2018", "width": 0.3}):
        config = run_config(replace(GANConfig(batch=20), **how), images)
        t = TrainState(config, images)
        weights = {p.untyped_storage().data_ptr() for net in (t.G, t.D) for p in net.parameters()}
        stays, comes = member_bytes(config)
        assert stays == 16 * sum(p.numel() for net in (t.G, t.D) for p in net.parameters())
        for step in (discriminator_step, generator_step):
            kept, held = {}, []

            def note(x):
                held.append(x)
                kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
                return x

            with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
                step(t)
            used = sum(size for at, size in kept.items() if at not in weights)
            assert used <= comes and (step is discriminator_step or used > comes / 4)


def test_minutes_cut_a_campaign_into_pieces_with_the_same_result(images, tmp_path):
    members, whole = [replace(BASE, seed=i) for i in range(3)], Schedule(6, log_every=2, checkpoint_every=50)
    short, pieces = replace(whole, minutes=1e-6), 0
    calm = train(members, images, whole, "cpu", tmp_path / "whole")
    with contextlib.suppress(StopIteration):
        while True:
            try:
                runs = train(members, images, short, "cpu", tmp_path / "cut")
                break
            except TimeBudgetExceeded as error:
                assert isinstance(error, UserError) and "of 3 members complete; the same command goes on" in str(error)
                pieces += 1
                assert pieces < 20
    assert pieces >= 3
    for a, b in zip(calm, runs, strict=True):
        nets = [net.state_dict() for run in (a, b) for net in run.networks()]
        assert all(torch.equal(nets[i][key], nets[i + 2][key]) for i in range(2) for key in nets[i])
        assert [line["step"] for line in b.log()] == [2, 4, 6] and steps_in(b.folder) == [6]
    assert train(members, images, short, "cpu", tmp_path / "cut")                             # complete: nothing to stop
    with pytest.raises(TimeBudgetExceeded, match="stopped after 0.0 minutes: 3 of 4 members complete"):
        train([*members, replace(BASE, seed=7)], images, short, "cpu", tmp_path / "cut")


def test_a_replay_on_a_cpu_is_the_work_itself():
    seen = []
    replay = CUDAGraphRunner(lambda x: seen.append(x) or x + 1)
    x = torch.ones(2)
    assert torch.equal(replay(x), x + 1) and seen[0] is x and replay.graph is None


def test_members_that_differ_in_shape_or_terms_are_refused(images):
    for other in (replace(BASE, batch=9), replace(BASE, classes=(0,)), replace(BASE, objective="gan"), replace(BASE, width=0.1)):
        with pytest.raises(UserError, match="cannot be fused"):
            BatchedTrainer(made(images, [TRIO[0], other]))


@gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_gpu_replayed_steps_are_the_steps_and_forms_agree(images, monkeypatch, backend):
    """Float32 without TF32: a recorded population has the bits of one that is not recorded, and the loop's numbers to 1e-4."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for module in (acgan.training, acgan.populations):
        monkeypatch.setattr(module, "precision", lambda device: contextlib.nullcontext())
    members = [replace(m, lr_g=m.lr_g / 10, lr_d=m.lr_d / 10, width=0.1) for m in TRIO]
    recorded, eager, loop = (Population(made(images, members, "cuda"), f, chunk=2) for f in (backend, backend, "loop"))
    for runner in (*eager.runners, *loop.runners):
        runner.records = False
    got, want, reference = (p.train_steps(20) for p in (recorded, eager, loop))
    assert all(runner.graph is not None for runner in recorded.runners) and torch.equal(got, want)
    assert torch.allclose(got[..., :6], reference[..., :6], rtol=1e-4, atol=1e-5)


@gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_gpu_company_changes_nothing(images, backend):
    """A member beside one whose numbers explode: in the loop the same bits, in a group no NaN."""
    wild = replace(BASE, seed=9, classes=(1, 2), lr_d=1e30, lr_g=1e30)
    alone, _, beside, _ = (t for company in ([TRIO[2], TRIO[0]], [TRIO[2], wild]) for t in trained(images, company, backend))
    pairs = list(zip(alone.D.parameters(), beside.D.parameters(), strict=True))
    assert all(p.isfinite().all() for _, p in pairs)
    assert backend != "loop" or all(torch.equal(a, b) for a, b in pairs)


def trained(images, members, backend):
    states = made(images, members, "cuda")
    Population(states, backend, chunk=2).train_steps(10)
    return states


@gpu
def test_on_a_gpu_a_short_bf16_run_of_every_form_learns_alike(images):
    ends = {backend: Population(made(images, [replace(m, width=0.2, batch=30) for m in TRIO], "cuda"), backend).train_steps(60)[:, -20:, :6].mean((0, 1))
            for backend in BACKENDS}
    assert torch.allclose(ends["grouped"], ends["loop"], rtol=0.25, atol=0.1)


@gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_gpu_memory_goes_back_to_its_base(images, backend):
    base = torch.cuda.memory_allocated()
    for _ in range(2):
        trained(images, TRIO, backend)
        assert torch.cuda.memory_allocated() == base, "a dropped population keeps its memory"


@gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_gpu_a_run_resumes_to_the_same_bits(images, tmp_path, backend):
    schedule, engine = Schedule(40, log_every=10, checkpoint_every=10), Engine("cuda", backend)
    straight = train(TRIO, images, schedule, engine, tmp_path / "straight")
    train(TRIO, images, replace(schedule, steps=20), engine, tmp_path / "pieces")
    for a, b in zip(straight, train(TRIO, images, schedule, engine, tmp_path / "pieces"), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.generator().parameters(), b.generator().parameters(), strict=True))

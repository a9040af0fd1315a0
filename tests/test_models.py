"""The layers against other ways to compute them: PyTorch's own transposed convolution, sums over pixels, the networks' old numbers."""
import pytest
import torch
from torch.nn import functional as F

from acgan.models import Discriminator, NoiseTape, Generator, TransposedConv, add_noise, drop, subpixel_kernels
from acgan.models import NoiseSampler, noise_spec

# kernel, stride, padding -> pixels that are cropped before and after the full output
CROPS = {(5, 2, "tf"): (1, 2), (5, 2, "torch"): (2, 1), (3, 2, "tf"): (0, 1), (3, 2, "torch"): (1, 0), (4, 2, "tf"): (1, 1),
         (6, 2, "tf"): (2, 2), (3, 1, "tf"): (1, 1), (5, 2, 0): (0, 0), (4, 1, 0): (0, 0)}


def by_hand(x, w, stride):
    """A transposed convolution as what it is: every input pixel paints the kernel, in float64."""
    B, _, H, W = x.shape
    k = w.shape[-1]
    y = torch.zeros(B, w.shape[1], (H - 1) * stride + k, (W - 1) * stride + k, dtype=x.dtype)
    for i in range(H):
        for j in range(W):
            y[:, :, i * stride:i * stride + k, j * stride:j * stride + k] += torch.einsum("bc,cmhw->bmhw", x[:, :, i, j], w)
    return y


@pytest.mark.parametrize("maps", [3, 7])                                  # few maps take the sub-pixel form
@pytest.mark.parametrize("setting", CROPS, ids=str)
def test_transposed_convolution_paints_kernels_and_crops(setting, maps):
    torch.manual_seed(0)
    up = TransposedConv(2, maps, *setting).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    before, after = CROPS[setting]
    whole = by_hand(x, up.weight, setting[1])
    want = whole[..., before:whole.shape[-2] - after, before:whole.shape[-1] - after] + up.bias.view(1, -1, 1, 1)
    got = up(x)
    assert got.shape == want.shape and torch.allclose(got, want, atol=1e-12)
    towards = torch.randn_like(want)
    for a, b in zip(*(torch.autograd.grad(y, (x, up.weight, up.bias), towards) for y in (got, want)), strict=True):
        assert torch.allclose(a, b, atol=1e-11)
    assert torch.allclose(up.float()(x.float()).double(), got, atol=1e-5)


@pytest.mark.parametrize("k, before", [(3, 0), (3, 1), (4, 1), (5, 1), (5, 2), (6, 2)])
def test_phases_for_stacked_weights(k, before):
    w, x = torch.randn(3, 2, 4, k, k, dtype=torch.float64), torch.randn(1, 2, 5, 5, dtype=torch.float64)
    taps = subpixel_kernels(w, before)
    assert taps.shape == (3, 16, 2, 3, 3)
    for m in range(3):
        want = F.conv_transpose2d(x, w[m], stride=2)[..., before:before + 10, before:before + 10]
        assert torch.allclose(F.pixel_shuffle(F.conv2d(x, taps[m], padding=1), 2), want)
        assert torch.equal(subpixel_kernels(w[m], before), taps[m])


def test_the_generator_is_the_one_of_its_table_whatever_the_form_of_its_layers():
    """Table 2's generator with PyTorch's layers and slices, in float64."""
    G = Generator(32, 10, width=0.1, seed=3).double()
    z, c = torch.randn(6, 100, dtype=torch.float64), torch.arange(6)
    x = F.relu(G.blocks[0].op(torch.cat([z, F.one_hot(c, 10)], 1))).view(6, -1, 4, 4)
    for block in G.blocks[1:]:
        x = F.conv_transpose2d(x, block.op.weight, block.op.bias, stride=2)
        x = x[..., 1:x.shape[-2] - 2, 1:x.shape[-1] - 2]
        if block.bn is not None:
            x = F.relu(F.batch_norm(x, None, None, block.bn.weight, block.bn.bias, True, eps=block.bn.eps))
    assert torch.allclose(G(z, c), torch.tanh(x), atol=1e-12)


@pytest.mark.parametrize("how", [{}, {"noise_std": 0.0}, {"noise_at": "input"}, {"dropout": 0.0}, {"spec": "zhou2018"}], ids=str)
def test_numbers_drawn_ahead_are_those_that_the_layers_draw(how):
    D, x = Discriminator(32, 3, **{"width": 0.1, "noise_std": 0.2} | how), torch.randn(4, 3, 32, 32)
    entries = NoiseSampler([noise_spec(D)], 4).draw([torch.Generator().manual_seed(5)])
    ahead, drawn = D(x, NoiseTape([[numbers[0] for numbers in entry] for entry in entries])), D(x, torch.Generator().manual_seed(5))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(ahead, drawn, strict=True))


def test_drawn_at_once_is_noise_and_dropout_too():
    D = Discriminator(32, 3, noise_std=0.2)
    entries = NoiseSampler([noise_spec(D)] * 2, 50, at_once=True).draw([torch.Generator().manual_seed(m) for m in range(2)])
    noise, masks = entries[0::2], entries[1::2]
    assert len(noise) == len(masks) == 6 and all(abs(n.mean()) < 0.01 and abs(n.std() - 1) < 0.01 for n, _ in noise)
    assert all(set(mask.unique().tolist()) == {0.0, 2.0} and abs(mask.mean() - 1) < 0.02 for mask, in masks)
    flat = torch.cat([n.flatten(1) for n, _ in noise], 1)
    assert abs((flat[0] * flat[1]).mean()) < 0.005 and not torch.equal(*flat)         # members have streams of their own
    x = torch.zeros(2, 50, 16, 16, 16)
    assert abs(add_noise(x, 1.0, NoiseTape(noise[:1])).std() - 0.2) < 0.01 and drop(x + 1, 0.5, NoiseTape(masks[:1])).mean().round() == 1

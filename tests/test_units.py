"""Units against the implementations of others, with the same weights."""

import pytest
import torch

from fmm_nb.gates import all_units, gates_of, unit
from fmm_nb.relatives import conditional
from fmm_nb.specs import UNITS
from fmm_nb.vision import prepare_torchvision

CHANNELS = 32


@pytest.fixture(scope="module")
def layers():
    prepare_torchvision()
    return pytest.importorskip("timm.layers")


def copied(ours, theirs, swap=()):
    "Give a unit the weights of another's, in order of registration, whatever their names and trailing ones."
    given = [value for value in theirs.state_dict().values() if value.ndim or value.is_floating_point()]
    taken = [value for value in ours.state_dict().values() if value.ndim or value.is_floating_point()]
    assert [value.numel() for value in given] == [value.numel() for value in taken]
    for to, value in zip(taken, given):
        to.copy_(value.reshape(to.shape))
    return ours.eval()


@pytest.fixture
def maps():
    torch.manual_seed(0)
    return torch.randn(4, CHANNELS, 7, 6)


def test_squeeze_and_excitation(layers, maps):
    theirs = layers.SEModule(CHANNELS, rd_channels=4).eval()
    torch.testing.assert_close(copied(unit("se", CHANNELS), theirs)(maps), theirs(maps))


@pytest.mark.parametrize("channels", [8, 64, 256])
def test_efficient_channel_attention(layers, channels):
    theirs, maps = layers.EcaModule(channels=channels).eval(), torch.randn(2, channels, 5, 5)
    torch.testing.assert_close(copied(unit("eca", channels), theirs)(maps), theirs(maps))


def test_global_context(layers, maps):
    theirs = layers.GlobalContext(CHANNELS).eval()
    theirs.mlp_scale.norm.eps = 1e-5  # the authors' code has torch's default
    torch.testing.assert_close(copied(unit("global_context", CHANNELS), theirs)(maps), theirs(maps))


def test_convolutional_block_attention(layers, maps):
    from timm.layers.cbam import CbamModule

    theirs = CbamModule(CHANNELS, rd_ratio=1 / 16, mlp_bias=True).eval()
    theirs.spatial.conv.bn.running_mean.fill_(0.1)
    ours = copied(unit("cbam", CHANNELS), theirs)
    ours[1].gate.around.weight.data = ours[1].gate.around.weight.flip(1)  # timm puts the mean first
    torch.testing.assert_close(ours(maps), theirs(maps))


def test_conditional_convolution(layers, maps):
    theirs, ours = layers.CondConv2d(CHANNELS, CHANNELS, 3, padding=1, num_experts=4), conditional(CHANNELS)
    ours.conv.weight.data = theirs.weight.detach().reshape(ours.conv.weight.shape)
    torch.testing.assert_close(ours(maps), theirs(maps, ours.coefficients(maps.mean((2, 3)))))


@pytest.mark.parametrize(
    "name, function", [("relu", "relu"), ("elu", "elu"), ("selu", "selu"), ("gelu", "gelu"), ("swish", "silu")]
)
def test_activations_are_torchs_also_as_gates(maps, name, function):
    expected, (gated,) = getattr(torch.nn.functional, function)(maps), gates_of(unit(name, CHANNELS)).values()
    torch.testing.assert_close(gated(maps), expected)
    torch.testing.assert_close(gated.gate(maps) * maps, expected)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", all_units())
def test_small_maps(name, size):
    "Maps as small as one place keep their shape, and stay finite."
    maps = torch.randn(4, 8, size, size)
    found = unit(name, 8)(maps)
    assert found.shape == maps.shape and torch.isfinite(found).all()


def test_the_names_of_nets_know_every_unit():
    assert set(UNITS) == set(all_units())

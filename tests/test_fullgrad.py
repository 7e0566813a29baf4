"""FullGrad on nets written against all expectations: the terms add up, and nothing is left behind."""

from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as modules

from fmm_nb import calls, fullgrad
from fmm_nb.errors import InputError
from fmm_nb.fullgrad import GATES, fullgrad_terms
from fmm_nb.models import ToyNet
from fmm_nb.saliency import FullGrad, SmoothFullGrad, channel_importance
from fmm_nb.vision import prepare_torchvision


class Odd(nn.Module):
    """Layers registered out of order, one convolution used twice, a functional one, steps in place, BatchNorm without
    affine."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(8 * 49, 10)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(8, affine=False), nn.ReLU(inplace=True)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8, 3, 3) / 9), nn.Parameter(torch.randn(8))

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        x = F.max_pool2d(self.relu(self.second(self.second(x))), 2)
        y = F.silu(F.relu_(F.conv2d(x, self.weight, self.bias, padding=1)))
        x = x * torch.sigmoid(y.mean((2, 3), keepdim=True))
        x += y
        return self.classifier(F.max_pool2d(x, 2).flatten(1))


class Attending(nn.Module):
    "Two images of a product of matrices, a softmax and a LayerNorm."

    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(28, 2, batch_first=True)
        self.norm = nn.LayerNorm(28)
        self.head = nn.Linear(28, 10)

    def forward(self, x):
        x = x[:, 0]
        return self.head(F.gelu(self.norm(x + self.inner(x, x, x, need_weights=False)[0])).mean(1))


class Written(nn.Module):
    "Writes into parts of tensors, over constants and by assignment, and goes on with the whole."

    def __init__(self):
        super().__init__()
        self.first, self.act, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(inplace=True), nn.Linear(8, 10)

    def forward(self, x):
        x.mul_(2).sub_(1)  # the caller's images stay as they are
        y = self.first(x) + 0
        part = self.act(y.flatten(2))
        y[:, 0] = 1.5
        y.transpose(1, 2).sub_(0.5).tanh_()
        total = torch.ones_like(y)
        total += y
        total[:, :4] = y[:, 4:].exp()
        total[:, 5] += 3
        return self.head(total.mean((2, 3)) + part.mean(2) * torch.fft.irfft2(torch.fft.rfft2(y) + 1).mean((2, 3)))


class Shared(nn.Module):
    "One layer under two names, one weight in two layers, and a product that is written in place."

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1)
        self.third = nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Linear(784, 10)
        self.second = self.first
        self.third.weight = self.first.weight

    def forward(self, x):
        y = self.third(F.silu(self.second(F.relu(self.first(x)))))
        z = y + 0
        z *= torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.head(z.flatten(1))


class Turned(nn.Module):
    "Images along the second axis, and filters made from each image."

    def __init__(self):
        super().__init__()
        self.rows, self.filters, self.head = nn.Linear(28, 16), nn.Linear(16, 9), nn.Linear(16, 10)

    def forward(self, x):
        y = torch.sigmoid(self.rows(x[:, 0, :2].permute(1, 0, 2)))  # [2, N, 16]
        filters = self.filters((y * y).mean(0)).reshape(-1, 1, 3, 3)
        seen = F.conv2d(x.reshape(1, -1, 28, 28), filters, groups=len(x))[0].mean((1, 2))
        return self.head(y.sum(0)) * seen[:, None]


def torchvision_net(name):
    prepare_torchvision()
    import torchvision

    return getattr(torchvision.models, name)(num_classes=10)


def timm_net(name):
    prepare_torchvision()
    import timm

    return timm.create_model(name, num_classes=10)


def drawn(make):
    "A net with statistics of its own, in double precision."
    torch.manual_seed(0)
    net = make().double()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 1.5)
    return net


NETS = {
    "odd": (Odd, 1, 28),
    "attention": (Attending, 1, 28),
    "written": (Written, 1, 28),
    "shared": (Shared, 1, 28),
    "turned": (Turned, 1, 28),
    "atac": (lambda: ToyNet(activation="atac", batch_norm=True), 1, 28),
    "swish": (lambda: ToyNet(activation="swish", gate="se", combine="add"), 1, 28),
    "resnet18": (lambda: torchvision_net("resnet18"), 3, 32),
    "vgg11_bn": (lambda: torchvision_net("vgg11_bn"), 3, 32),
    "mobilenet_v3_small": (lambda: torchvision_net("mobilenet_v3_small"), 3, 64),
    "legacy_seresnet18": (lambda: timm_net("legacy_seresnet18"), 3, 64),
    "tinynet_e": (lambda: timm_net("tinynet_e"), 3, 64),
}


def leftover(terms):
    size = terms.input.abs() + sum(term.abs() for term in terms.terms.values())
    return float((terms.residual.abs() / size).max())


@pytest.mark.parametrize("name", NETS)
def test_the_terms_add_up(name):
    make, channels, size = NETS[name]
    net, x = drawn(make), torch.randn(2, channels, size, size, dtype=torch.double)
    for gate in GATES:
        terms = fullgrad_terms(net, x, gate=gate)
        torch.testing.assert_close(terms.output, net.eval()(x.clone()).detach().amax(1))
        assert leftover(terms) < 1e-10


class Square(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(context, gradient):
        return 2 * context.saved_tensors[0] * gradient


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (lambda: Through(Square.apply), "Square has no forward-mode derivative"),
        (
            lambda: Through(torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 3), nn.SiLU()))),
            "step has no forward-mode derivative",
        ),
        (
            lambda: torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(676, 10))),
            "has no forward-mode derivative",
        ),
        (lambda: torch.jit.freeze(torch.jit.script(nn.Flatten().eval())), "has no forward-mode derivative"),
        (lambda: nn.DataParallel(ToyNet()), "DataParallel has no forward-mode derivative"),
        (lambda: Cells(), "take nn.LSTM"),
        (lambda: Through(nn.BatchNorm2d(1, track_running_stats=False)), "give it running statistics"),
    ],
)
def test_what_cannot_be_looked_into_is_named(hidden, message):
    with pytest.raises(InputError, match=message):
        fullgrad_terms(hidden().double(), torch.rand(2, 1, 28, 28, dtype=torch.double))


def test_what_torch_has_no_derivative_for_yet_is_named():
    "Of grid_sample it has one since 2.15."
    net = Through(lambda x: F.grid_sample(x, torch.zeros(len(x), 5, 5, 2, dtype=x.dtype), align_corners=False)).double()
    try:
        assert leftover(fullgrad_terms(net, torch.rand(2, 1, 28, 28, dtype=torch.double))) < 1e-10
    except InputError as error:
        assert "grid_sample has no forward-mode derivative" in str(error)


class Cells(nn.Module):
    "An image read row by row."

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(28, 7), nn.Linear(7, 10)

    def forward(self, x):
        state = None
        for row in x[:, 0].unbind(1):
            state = self.cell(row, state)
        return self.head(state[0])


@pytest.mark.parametrize(
    ("of", "images", "message"),
    [
        (lambda logits: (logits,), torch.rand(2, 1, 28, 28), "must give logits"),
        (lambda logits: {"logits": logits}, torch.rand(2, 1, 28, 28), "must give logits"),
        (lambda logits: logits[:, 0], torch.rand(2, 1, 28, 28), "must give logits"),
        (lambda logits: torch.ones(2, 10), torch.rand(2, 1, 28, 28), "does not follow from the image"),
        (lambda logits: logits, torch.zeros(2, 1, 28, 28, dtype=torch.uint8), "scale bytes"),
        (lambda logits: logits, torch.rand(2, 1, 28, 28).numpy(), "got ndarray"),
    ],
)
def test_what_is_no_logits_of_images_is_named(of, images, message):
    net = ToyNet()
    net.register_forward_hook(lambda net, inputs, logits: of(logits))
    with pytest.raises(InputError, match=message):
        fullgrad_terms(net, images)


class Through(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step, self.head = step, nn.Linear(1, 10)

    def forward(self, x):
        return self.head(self.step(x).mean((2, 3)))


@pytest.mark.parametrize("left_out", ["sigmoid", "mul", "batch_norm", "silu"])
def test_a_term_that_is_left_out_is_missed(left_out):
    real = fullgrad.decomposed

    def lacking(*given):
        output, target, gradient, calls = real(*given)
        kept = [call for call in calls if not call.name.endswith(left_out)]
        assert len(kept) < len(calls)
        return output, target, gradient, kept

    with mock.patch.object(fullgrad, "decomposed", lacking):
        assert leftover(fullgrad_terms(drawn(Odd), torch.randn(2, 1, 28, 28, dtype=torch.double))) > 1e-4


def test_the_short_tables_say_what_the_general_rule_says():
    x, net = torch.randn(3, 1, 28, 28, dtype=torch.double), drawn(Odd)
    quick = fullgrad_terms(net, x)
    with mock.patch.multiple(calls, HOMOGENEOUS=set(), AFFINE=set()):
        general = fullgrad_terms(net, x)
    for name, term in quick.terms.items():
        torch.testing.assert_close(general.terms[name], term)
    rest = [term.abs().max() for name, term in general.terms.items() if name not in quick.terms]
    assert max(rest, default=0) < 1e-12


def test_an_image_has_its_terms_whoever_stands_beside_it():
    x, net = torch.randn(4, 1, 28, 28, dtype=torch.double), drawn(Odd)
    together, alone = fullgrad_terms(net, x), fullgrad_terms(net, x[2:3])
    for name, term in alone.terms.items():
        torch.testing.assert_close(together.terms[name][2:3], term)


class Broken(nn.Module):
    def forward(self, x):
        raise ValueError("no")


@pytest.mark.parametrize(
    "use",
    [
        fullgrad_terms,
        lambda net, x: FullGrad(net).attribute(x),
        lambda net, x: SmoothFullGrad(net).attribute(x, samples=2),
        channel_importance,
    ],
)
def test_nothing_is_left_behind_also_after_an_error(use):
    net, x = nn.Sequential(ToyNet(gate="se"), nn.Identity()).train(), torch.rand(2, 1, 28, 28)
    net[0].classifier.bias.requires_grad_(False)
    state = torch.get_rng_state()
    before = [(p.requires_grad, p.grad) for p in net.parameters()]
    use(net, x)
    net[1] = Broken()
    with pytest.raises(ValueError, match="no"):
        use(net, x)
    assert all(part.training for part in net.modules()) and not x.requires_grad
    assert before == [(p.requires_grad, p.grad) for p in net.parameters()]
    assert not any(
        part._forward_hooks or part._forward_pre_hooks or getattr(part, "held", None) for part in net.modules()
    )
    assert not modules._global_forward_hooks and not modules._global_forward_pre_hooks
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("target", [10, -1, torch.tensor([0.5, 1.0]), [1, 12]])
def test_a_class_that_does_not_exist_is_refused(target):
    with pytest.raises(InputError, match="from 0 to 9"):
        fullgrad_terms(ToyNet(), torch.rand(2, 1, 28, 28), target)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_classes_may_be_any_whole_numbers(dtype):
    net, x = ToyNet(), torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(
        fullgrad_terms(net, x, torch.tensor([3, 1], dtype=dtype)).output, fullgrad_terms(net, x, [3, 1]).output
    )


def test_float32_is_complete_up_to_its_rounding():
    assert leftover(fullgrad_terms(ToyNet(gate="se"), torch.rand(8, 1, 28, 28))) < 1e-4

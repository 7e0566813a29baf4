"What only a GPU can show; skipped where there is none."

from copy import deepcopy
from dataclasses import replace
from unittest.mock import Mock

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

from fmm_nb import graphs, loop
from fmm_nb.batches import parts
from fmm_nb.data import load
from fmm_nb.graphs import run_together
from fmm_nb.loop import Training, arithmetic, run
from fmm_nb.specs import MODELS, Protocol, Spec
from fmm_nb.training import train, train_many

# the compiler says that tensor cores are left unused: so it is meant
pytestmark = pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
# a rate that float32 holds exactly
EXACT = Protocol(epochs=4, batch_size=50, learning_rate=0.0625, precision="float64", snapshots=(1,))
RECIPES = {name: Spec(name, "mnist_mini", EXACT, n_train=250) for name in MODELS}
RECIPES["batch norm"] = replace(RECIPES["am"], options={"batch_norm": True})
RECIPES["augmented, mixup"] = replace(
    RECIPES["am"], protocol=replace(EXACT, augmentation="crop_flip", mixup=0.5, optimizer="nesterov", schedule="cosine")
)
RECIPES["penalised"] = replace(RECIPES["cnn"], protocol=replace(EXACT, jacobian_penalty=0.01))
RECIPES["residual"] = replace(RECIPES["cnn"], model="wrn10_1", protocol=replace(EXACT, augmentation="crop_flip"))
RECIPES["a smaller last step"] = replace(RECIPES["am"], protocol=replace(EXACT, batch_size=60))


@pytest.fixture(autouse=True)
def as_trainings_do():
    with arithmetic():  # no TF32
        yield


@pytest.fixture(scope="module")
def digits():
    return load("mnist_mini").subset(None, 100)


def distance(one, other):
    "The largest relative distance of two states."
    return (
        torch.stack(
            [
                (one[name].cpu() - other[name].cpu()).double().norm()
                / one[name].cpu().double().norm().clamp_min(1e-300)
                for name in one
            ]
        )
        .max()
        .item()
    )


@pytest.mark.parametrize("name", RECIPES)
def test_replayed_steps_give_the_weights_of_the_same_steps_on_the_cpu(name, digits, monkeypatch):
    recorded = []
    monkeypatch.setattr(
        graphs, "recorded", lambda program, record=graphs.recorded: recorded.append(record(program)) or recorded[-1]
    )
    specs = [replace(RECIPES[name], seed=seed) for seed in range(2)]
    together = [Training(spec, parts(spec, digits, "cuda"), "cuda") for spec in specs]
    run_together(together)
    assert len(recorded) == len(specs)
    for spec, training in zip(specs, together):
        alone = Training(spec, parts(spec, digits))
        run(alone)
        # the fused descent of a GPU takes rates in float32 alone: those of a cosine are rounded
        assert distance(alone.model.state_dict(), training.model.state_dict()) < (
            1e-6 if spec.protocol.schedule == "cosine" else 1e-10
        )


@pytest.mark.parametrize("name", ["cnn", "am", "am_shuffled", "augmented, mixup", "residual"])
def test_fused_operations_give_the_same_weights(name, digits, monkeypatch):
    spec, seen = RECIPES[name], parts(RECIPES[name], digits, "cuda")
    plain, fused = Training(spec, seen, "cuda"), Training(spec, seen, "cuda")
    run_together([plain])
    monkeypatch.setattr(graphs, "LONG", 0)
    run_together([fused])
    assert fused.outcome.func is not plain.outcome.func
    assert distance(plain.model.state_dict(), fused.model.state_dict()) < 1e-10


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_arms_and_rates_train_abreast_and_learn(precision, digits):
    recipe = Protocol(epochs=6, batch_size=25, precision=precision)
    specs = [
        Spec(model, "mnist_mini", replace(recipe, learning_rate=rate), n_train=2000)
        for model in ("cnn", "am", "am_static")
        for rate in (0.02, 0.05)
    ]
    for trained in train_many(specs, load("mnist_mini")):
        assert trained.record["device"] == "cuda" and trained.record["precision"] == precision
        assert trained.history.test_accuracy.iloc[-1] > 0.8
        assert all(value.device.type == "cpu" for value in trained.weights[6].values())


def test_a_training_that_diverges_leaves_the_others_alone(digits):
    calm = replace(RECIPES["cnn"], protocol=Protocol(epochs=3, batch_size=20, precision="float32"))
    wild = replace(calm, protocol=replace(calm.protocol, learning_rate=1e4))
    assert train(wild, digits, "cpu").diverged_at
    one, other = train_many([calm, wild], digits)
    assert one.diverged_at is None and other.diverged_at
    assert distance(train(calm, digits, "cpu").weights[3], one.weights[3]) < 1e-2


def test_an_interrupted_group_goes_on_from_its_checkpoints(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    specs = [replace(RECIPES["augmented, mixup"], seed=seed) for seed in range(2)]
    files = {spec: tmp_path / spec.key for spec in specs}
    whole, stopped, resumed = (
        [Training(spec, parts(spec, digits, "cuda"), "cuda") for spec in specs] for _ in range(3)
    )
    run_together(whole)
    with pytest.raises(KeyboardInterrupt):
        run_together(stopped, Mock(side_effect=[None, KeyboardInterrupt]), files)
    epochs = Mock()
    run_together(resumed, epochs, files)
    assert epochs.call_count == 2
    for one, other in zip(whole, resumed):
        assert distance(one.model.state_dict(), other.model.state_dict()) < 1e-10
        assert [row["epoch"] for row in other.history] == [1, 2, 3, 4] and sorted(other.kept) == sorted(one.kept)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("images", [(7, 1, 28, 28), (400, 1, 32, 32), (400, 3, 32, 32)])
@pytest.mark.parametrize("channels", [32, 33])
def test_the_first_layer_is_convolution_activation_mean_and_pooling(channels, images, half, relu):
    from fmm_nb.first_layer import distances, right

    assert right(images, channels, relu, half), distances(images, channels, relu, half)


def test_a_first_layer_that_is_wrong_is_not_used(monkeypatch):
    from fmm_nb import first_layer
    from fmm_nb.models import create_model

    block, plain = (create_model("am").features[0] for _ in range(2))
    monkeypatch.setattr(first_layer, "right", lambda *case: False)
    with pytest.warns(UserWarning, match="the library's operations are used"):
        first_layer.quicken(block, 28, True)
    assert block.pooled is plain.pooled
    monkeypatch.undo()
    first_layer.quicken(block, 28, True)
    assert block.pooled is first_layer.first_pooled


@pytest.mark.parametrize("name", ["cnn", "am", "am_static", "cnn_matched"])
def test_a_long_training_takes_the_steps_of_a_short_one(name, digits, monkeypatch):
    # an epoch alone: rounding grows by an eighth a step
    spec = replace(
        RECIPES[name], protocol=Protocol(epochs=1, batch_size=25, learning_rate=0.05, precision="float32"), n_train=500
    )
    plain = Training(spec, parts(spec, load("mnist_mini"), "cuda"), "cuda")
    run_together([plain])
    monkeypatch.setattr(graphs, "LONG", 0)
    fused = Training(spec, plain.parts, "cuda")
    run_together([fused])
    assert fused.model.features[0].pooled.__name__ == "first_pooled"
    assert distance(plain.model.state_dict(), fused.model.state_dict()) < 1e-3


def test_measures_say_on_a_gpu_what_they_say_on_a_cpu(digits):
    from fmm_nb.landscapes import landscape
    from fmm_nb.models import create_model
    from fmm_nb.saliency import attention_weights, channel_importance
    from fmm_nb.sensitivity import jacobian_sensitivities, output_sensitivities
    from fmm_nb.trajectories import Paths, ellipse_weights, transitions

    torch.manual_seed(0)
    net, x, y = create_model("am").double().eval(), digits.test_x.double() / 255, digits.test_y

    def told(net, x, y):
        yield jacobian_sensitivities(net, x)
        yield output_sensitivities(net, x, (0.1,), 2)[0.1]
        yield landscape(net, x, y, "cross_class", 4, 60)
        yield {"switches": sum(transitions(net, Paths(ellipse_weights(60), x[None, :3])[:]).values())}
        for way in (attention_weights, channel_importance):
            yield {name: value.double().mean().item() for name, value in way(net, x[:20]).items()}

    for one, other in zip(told(net, x, y), told(deepcopy(net).to("cuda"), x.cuda(), y.cuda()), strict=True):
        assert one == pytest.approx(other, rel=1e-6, nan_ok=True)

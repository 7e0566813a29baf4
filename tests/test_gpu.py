"What only a GPU can show; skipped where there is none."
from dataclasses import replace
from functools import partial

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

from fmm_nb import graphs
from fmm_nb.batches import parts
from fmm_nb.data import load
from fmm_nb.graphs import run_together
from fmm_nb.loop import Training, run
from fmm_nb.specs import MODELS, Protocol, Spec
from fmm_nb.training import train, train_many

EXACT = Protocol(epochs=4, batch_size=50, learning_rate=0.0625, precision="float64", snapshots=(1,))  # a rate that float32 holds exactly
RECIPES = {name: Spec(name, "mnist_mini", EXACT, n_train=250) for name in MODELS}
RECIPES["batch norm"] = replace(RECIPES["am"], options={"batch_norm": True})
RECIPES["augmented, mixup"] = replace(RECIPES["am"], protocol=replace(EXACT, augmentation="crop_flip", mixup=0.5, optimizer="nesterov", schedule="cosine"))
RECIPES["penalised"] = replace(RECIPES["cnn"], protocol=replace(EXACT, jacobian_penalty=0.01))
RECIPES["a smaller last step"] = replace(RECIPES["am"], protocol=replace(EXACT, batch_size=60))


@pytest.fixture(scope="module")
def digits():
    return load("mnist_mini").subset(None, 100)


def distance(one, other):
    "The largest relative distance of two states."
    return torch.stack([(one[name].cpu() - other[name].cpu()).double().norm() / one[name].cpu().double().norm().clamp_min(1e-300) for name in one]).max().item()


@pytest.mark.parametrize("name", RECIPES)
def test_replayed_steps_give_the_weights_of_the_same_steps_on_the_cpu(name, digits, monkeypatch):
    recorded = []
    monkeypatch.setattr(graphs, "recorded", lambda program, record=graphs.recorded: recorded.append(record(program)) or recorded[-1])
    specs = [replace(RECIPES[name], seed=seed) for seed in range(2)]
    together = [Training(spec, parts(spec, digits, "cuda"), "cuda") for spec in specs]
    run_together(together)
    assert len(recorded) == len(specs)
    for spec, training in zip(specs, together):
        alone = Training(spec, parts(spec, digits))
        run(alone)
        # the fused descent of a GPU takes rates in float32 alone: those of a cosine are rounded
        assert distance(alone.model.state_dict(), training.model.state_dict()) < (1e-6 if spec.protocol.schedule == "cosine" else 1e-10)


@pytest.mark.parametrize("name", ["cnn", "am", "am_shuffled"])
def test_fused_operations_give_the_same_weights(name, digits, monkeypatch):
    spec, seen = RECIPES[name], parts(RECIPES[name], digits, "cuda")
    plain, fused = Training(spec, seen, "cuda"), Training(spec, seen, "cuda")
    run_together([plain])
    monkeypatch.setattr(graphs, "LONG", 0)
    run_together([fused])
    assert isinstance(fused.forward, partial)
    assert distance(plain.model.state_dict(), fused.model.state_dict()) < 1e-10


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_arms_and_rates_train_abreast_and_learn(precision, digits):
    recipe = Protocol(epochs=6, batch_size=25, precision=precision)
    specs = [Spec(model, "mnist_mini", replace(recipe, learning_rate=rate), n_train=2000) for model in ("cnn", "am", "am_static") for rate in (0.02, 0.05)]
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

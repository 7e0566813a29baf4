"""Three training steps in float64, held against what they gave when they were written down.

A change of these numbers is a change of every net that was ever trained: then the version that the message names is
raised in nbs/lib/09_specs.ipynb, and `python tests/test_golden.py` writes the numbers down anew.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fmm_nb.data import load
from fmm_nb.specs import MODELS, MODELS_VERSION, TRAINING_VERSION, Protocol, Spec
from fmm_nb.training import train

FILE = Path(__file__).with_name("golden.json")
RECIPES = {
    "cosine": {"schedule": "cosine", "optimizer": "nesterov", "weight_decay": 1e-3},
    "augmented": {"augmentation": "crop_flip"},
    "mixup": {"mixup": 0.5},
    "penalised": {"jacobian_penalty": 0.01},
    "held out": {"validation": 0.25},
    "unit inputs": {"input_scale": "unit"},
}
# which of equal values a max-pool takes, and with it a Jacobian, is up to the processor's rounding
AVERAGE = {"pooling": "average"}
OPTIONS = {
    "batch norm": {"batch_norm": True},
    "gate first": {"gate_first": True},
    "he": {"initialisation": "he"},
    "atac": {"activation": "atac"},
    "average pooling": AVERAGE,
}
CASES = {name: (name, {}, {}) for name in MODELS}
CASES |= {f"am, {name}": ("am", recipe, AVERAGE if name == "penalised" else {}) for name, recipe in RECIPES.items()}
CASES |= {f"am, {name}": ("am", {}, options) for name, options in OPTIONS.items()}
CASES |= {"am, penalised, noise": ("am", RECIPES["penalised"], {})}
ATAC = {
    "schedule": "steps",
    "augmentation": "pad_crop_flip",
    "optimizer": "nesterov",
    "weight_decay": 1e-4,
    "shrink": 2,
}
CASES |= {
    name: (name, ATAC, {})
    for name in ("resnet_b1_atac", "senet_b1", "genet_theta_b1", "kervolution", "volterra", "glu")
}
CASES |= {"resnet_b1_atac, canvas": ("resnet_b1_atac", {"canvas": 56, "shrink": 4}, {"context": "half"})}
CASES |= {
    f"{model}, {combine}": (model, {}, {"combine": combine})
    for model, combine in [("wrn10_1", "mul"), ("stack3_4", "identity"), ("stack3_4", "inside")]
}


def fingerprint(weights):
    "One number that moves with every weight and buffer."
    values = torch.cat([value.double().flatten() for value in weights.values()])
    return float(values @ torch.cos(torch.arange(len(values), dtype=torch.float64)))


def images(case):
    "Digits; noise where a max-pool would choose among the equal values of their ground."
    digits = load("mnist_mini").subset(None, 20)
    noise = torch.randint(256, digits.train_x.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return replace(digits, train_x=noise) if case.endswith("noise") else digits


def measured(case):
    "The net as built, and after three steps."
    model, recipe, options = CASES[case]
    found = {}
    for stage, epochs, count in [("built", 0, 96), ("trained", 1, 128 if "validation" in recipe else 96)]:
        protocol = Protocol(epochs=epochs, batch_size=32, precision="float64", **recipe)
        net = train(Spec(model, "mnist_mini", protocol, n_train=count, options=options), images(case))
        found[stage] = {
            "weights": fingerprint(net.weights[epochs]),
            "clean_loss": float(net.history.clean_loss.iloc[-1]),
        }
    return found


@pytest.mark.parametrize("case", CASES)
def test_three_steps_give_what_they_gave(case):
    golden = json.loads(FILE.read_text())
    versions = {"training_version": TRAINING_VERSION, "models_version": MODELS_VERSION}
    assert golden["versions"] == versions, (
        "a version was raised: python tests/test_golden.py writes the numbers down anew"
    )
    assert case in golden["cases"], f"{case!r} is new: python tests/test_golden.py adds it"
    found = measured(case)
    for stage, version in [("built", "MODELS_VERSION"), ("trained", "TRAINING_VERSION")]:
        assert found[stage] == pytest.approx(golden["cases"][case][stage], rel=1e-10), (
            f"{case}: results changed; if that is meant, raise {version}"
        )


def test_a_changed_result_is_seen():
    "The golden numbers could fail: one step with another rate moves them by far more than the tolerance."
    golden = json.loads(FILE.read_text())["cases"]["am"]["trained"]
    other = train(
        Spec(
            "am",
            "mnist_mini",
            Protocol(epochs=1, batch_size=32, precision="float64", learning_rate=0.0500001),
            n_train=96,
        ),
        load("mnist_mini"),
    )
    assert fingerprint(other.weights[1]) != pytest.approx(golden["weights"], rel=1e-10)


if __name__ == "__main__":
    numbers = {
        "versions": {"training_version": TRAINING_VERSION, "models_version": MODELS_VERSION},
        "cases": {case: measured(case) for case in CASES},
    }
    FILE.write_text(json.dumps(numbers, indent=1) + "\n")

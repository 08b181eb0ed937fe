"""Your own network, in plain PyTorch: any nn.Module that turns a batch into logits.

    python examples/own_module.py

Data in memory go in as they are; nothing is written to disk unless you ask for it.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import metapl

STEPS = 600


class TinyNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.head = nn.Linear(128, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).flatten(1))


def main() -> None:
    images, y = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).view(-1, 8, 8)
    seen, test = images[:1400], images[1400:]
    labels = torch.tensor(y[:1400])
    labels[60:] = -1  # 60 rows keep their label, the rest is the unlabelled pool

    result = metapl.fit(
        seen,
        labels,
        method="mpl",
        # A function gives every network of the run fresh weights; a module itself would be copied, weights included.
        model=lambda shape, num_classes: TinyNet(num_classes),
        X_test=test,
        y_test=y[1400:],
        steps=STEPS,
        options={"batch.unlabeled": 64, "views.ops": 1, "views.cutout": 0.25},
    )
    print(result.summary["guard"]["text"])
    judged = result.evaluate()
    print(f"{100 * judged['accuracy']:.1f} % of {judged['rows']} test rows")
    print("the first five test rows:", *result.predict(test[:5]))
    guessed = result.pseudo_labels()
    sure = guessed.probabilities.max(1) > 0.95
    print(f"{sure.sum()} of {len(sure)} unlabelled rows now have a label it is sure of")
    net = result.predictor.model  # a plain TinyNet: save it, go on training it, put it where you like
    assert isinstance(net, TinyNet)


if __name__ == "__main__":
    main()

"""A small network that names species, pose and place of a 64x64 picture; trained on true renders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.training.vae import to_tensor
from bench.world import PLACES, POSES, SPECIES, Duet, all_duets, all_layouts

log = logging.getLogger(__name__)

WORDS = {"species": SPECIES, "pose": POSES, "place": PLACES}


class LayoutClassifier(nn.Module):
    """Four strided convolutions and one linear layer with the logits of all three questions."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = [3, width, 2 * width, 3 * width, 4 * width]
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        self.head = nn.Linear(sizes[-1] * 16, sum(len(words) for words in WORDS.values()))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Pictures (n, 3, 64, 64) in -1..1 -> logits for species, pose and place."""
        logits: Tensor = self.head(self.body(pictures))
        return logits.split([len(words) for words in WORDS.values()], dim=1)


def layout_targets(numbers: np.ndarray | Tensor) -> Tensor:
    """Layout numbers (n,) -> indices (n, 3) of species, pose and place."""
    layouts = all_layouts()
    rows = [
        [words.index(getattr(layouts[int(number)], question)) for question, words in WORDS.items()]
        for number in numbers
    ]
    return torch.tensor(rows)


def _augment(pictures: Tensor) -> Tensor:
    """Noise and blur, so that the judge does not depend on edges sharper than an autoencoder's."""
    blurred = F.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    weight = torch.rand(len(pictures), 1, 1, 1)
    return torch.lerp(pictures, blurred, weight) + 0.1 * torch.rand(len(pictures), 1, 1, 1) * torch.randn_like(pictures)


def train_classifier(
    pictures: np.ndarray, numbers: np.ndarray, steps: int = 1200, batch: int = 64, seed: int = 0
) -> LayoutClassifier:
    """Train on pictures uint8 (n, 64, 64, 3) and the numbers (n,) of their layouts."""
    torch.manual_seed(seed)
    model = LayoutClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = np.sort(torch.randint(len(pictures), (batch,)).numpy())
        logits = model(_augment(to_tensor(pictures[rows])))
        targets = layout_targets(numbers[rows])
        loss = sum((F.cross_entropy(part, targets[:, index]) for index, part in enumerate(logits)), torch.zeros(()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: LayoutClassifier, pictures: Tensor, numbers: np.ndarray | Tensor) -> dict[str, float]:
    """Share of pictures (n, 3, 64, 64) whose species, pose, place, and all three together are those of their layout."""
    targets = layout_targets(numbers)
    right = torch.stack([part.argmax(dim=1) == targets[:, i] for i, part in enumerate(model(pictures))], dim=1)
    shares = {question: round(float(right[:, i].float().mean()), 4) for i, question in enumerate(WORDS)}
    return shares | {"all": round(float(right.all(dim=1).float().mean()), 4)}


@cache
def classifier(work: Path = Path(".snapshots")) -> LayoutClassifier:
    """The judge of pictures of one creature; trained once and kept in `work`."""
    return _kept(work / "classifier.pt", lambda: _data(work / "world"), _data(work / "heldout"))


@cache
def classifier_of_halves(work: Path = Path(".snapshots/duets")) -> LayoutClassifier:
    """The judge of either half of a picture of two."""
    return _kept(work / "classifier.pt", lambda: _halves(work / "world"), _halves(work / "heldout"))


def halves(pictures: np.ndarray) -> np.ndarray:
    """Pictures of two creatures (n, 64, 128, 3) to (2 n, 64, 64, 3): left and right half in turn."""
    return np.stack(np.split(pictures, 2, axis=2), axis=1).reshape(-1, 64, 64, 3)


def numbers_of_halves(duets: Sequence[Duet]) -> np.ndarray:
    """The layouts' numbers of the creatures in :func:`halves`, (2 n,)."""
    layouts = all_layouts()
    return np.array([layouts.index(creature) for duet in duets for creature in (duet.left, duet.right)])


def _data(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "pictures.npy", mmap_mode="r"), np.load(folder / "layouts.npy")


def _halves(folder: Path, most: int = 8000) -> tuple[np.ndarray, np.ndarray]:
    pictures, numbers = _data(folder)
    duets = all_duets()
    return halves(pictures[:most]), numbers_of_halves([duets[number] for number in numbers[:most]])


def _kept(
    path: Path, data: Callable[[], tuple[np.ndarray, np.ndarray]], heldout: tuple[np.ndarray, np.ndarray]
) -> LayoutClassifier:
    if not path.exists():
        torch.save(train_classifier(*data()).state_dict(), path)
    model = LayoutClassifier().eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    pictures, numbers = heldout
    log.info("%s on held-out renders: %s", path, accuracy(model, to_tensor(pictures), numbers))
    return model

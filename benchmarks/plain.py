"""Plain code that does what the fast code does: the reference of benchmarks and tests."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from sklearn import metrics as sk
from torch import Tensor, nn

from dataloader.augment import PairAugmentation
from loss.consistency import rampup
from model.segmentor import Segmentor
from utils.config.schema import TrainSettings


class PlainStep:
    """One iteration of DA-ISC, with a separate pass for each domain and each map."""

    def __init__(
        self, segmentor: Segmentor, disc_seg: nn.Module, disc_res: nn.Module, train: TrainSettings
    ) -> None:
        self.segmentor, self.disc_seg, self.disc_res, self.train = (
            segmentor,
            disc_seg,
            disc_res,
            train,
        )
        self.networks = {segmentor: train.learning_rate}
        self.networks |= {disc_seg: train.learning_rate_ms, disc_res: train.learning_rate_mt}
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=rate, betas=(0.9, 0.99), foreach=False)
            for net, rate in self.networks.items()
        ]

    def __call__(self, iteration: int, source: Tensor, masks: Tensor, target: Tensor) -> float:
        """Train on a batch; returns the sum of the losses of the segmentor."""
        train = self.train
        decay = (1 - iteration / train.total_iters) ** train.power
        for optimizer, rate in zip(self.optimizers, self.networks.values(), strict=True):
            optimizer.param_groups[0]["lr"] = rate * decay
            optimizer.zero_grad()

        current, auxiliary, residual = self.segmentor(source)
        loss = F.cross_entropy(current, masks[:, 0]) + F.cross_entropy(auxiliary, masks[:, 1])
        loss = loss + F.cross_entropy(residual, masks[:, 0] ^ masks[:, 1])
        source_maps = [maps.detach().softmax(1) for maps in (current, auxiliary, residual)]

        current, auxiliary, residual = self.segmentor(target)
        differs = residual.argmax(1)
        cross = F.cross_entropy(current, auxiliary.argmax(1) ^ differs)
        cross = cross + F.cross_entropy(auxiliary, current.argmax(1) ^ differs)
        loss = loss + train.weight_cross * rampup(iteration, train.rampup_iters) * cross
        maps = [maps.softmax(1) for maps in (current, auxiliary, residual)]
        fooled = (self._domain(0, maps[0], 0) + self._domain(0, maps[1], 0)) / 2
        loss = loss + train.weight_adv_spatial * fooled
        loss = loss + train.weight_adv_temporal * self._domain(1, maps[2], 0)
        loss.backward()

        self.disc_seg.zero_grad()
        self.disc_res.zero_grad()
        target_maps = [m.detach() for m in maps]
        for which, index, weight in ((0, 0, 4), (0, 1, 4), (1, 2, 2)):
            (self._domain(which, source_maps[index], 0) / weight).backward()
            (self._domain(which, target_maps[index], 1) / weight).backward()
        for network, optimizer in zip(self.networks, self.optimizers, strict=True):
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        return loss.item()

    def _domain(self, which: int, maps: Tensor, domain: float) -> Tensor:
        logits = (self.disc_seg, self.disc_res)[which](maps)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


def plain_sample(
    files: Sequence[Path], masks: Sequence[Path], augment: PairAugmentation, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A training pair: read whole sections and masks, scale and augment them, crop."""
    images = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED).astype(np.float32) for file in files]
    images = np.stack([(i - i.min()) / (i.max() - i.min()) for i in images])
    labels = np.stack([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) > 127 for file in masks])
    images, labels = augment(images, labels.astype(np.uint8), seed)
    return images, labels.astype(np.int64)


@torch.no_grad()
def plain_prediction(segmentor: Segmentor, volume: Tensor, stride: int) -> Tensor:
    """Probabilities of whole sections (Z, H, W) in [0, 1], pair by pair, without padding."""
    total, count = torch.zeros_like(volume), torch.zeros(len(volume), 1, 1)
    for index in range(len(volume) - stride):
        pair = [index, index + stride]
        logits = segmentor(volume[None, pair], with_residual=False)
        for section, maps in zip(pair, logits[:2], strict=True):
            total[section] += maps.softmax(1)[0, 1]
            count[section] += 1
    return total / count


def plain_scores(probability: np.ndarray, label: np.ndarray) -> list[float]:
    """mAP, F1, MCC and IoU by scikit-learn, means over sections (Z, H, W)."""
    scores = []
    for scored, truth in zip(probability, label, strict=True):
        truth, scored = truth.ravel(), scored.ravel()
        mask = scored >= 0.5
        scores.append(
            [
                sk.average_precision_score(truth, scored),
                sk.f1_score(truth, mask),
                sk.matthews_corrcoef(truth, mask),
                sk.jaccard_score(truth, mask),
            ]
        )
    return np.mean(scores, axis=0).tolist()

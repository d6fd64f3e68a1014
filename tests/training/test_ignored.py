"""Pixels that do not count: ignored by labels, or blank; in losses, scores, statistics, output."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from sklearn import metrics as sk

from dataloader.augment import PairAugmentation
from dataloader.domain_randomisation import randomise_domain
from dataloader.formats.opening import open_volume
from dataloader.inspection import inspect_labels
from dataloader.synthetic import TARGET_MICROSCOPE, make_volume, write_sections
from loss.consistency import consistency_loss, pseudo_labels
from loss.supervised import inter_section_residual, supervised_losses
from model.segmentor import Segmentor
from prediction.instances.scores import InstanceScorer
from prediction.metrics import DiceScores, PooledScores, SectionScores, average_precision, score
from prediction.pictures import contours
from prediction.predictor import NetworkPredictor
from tests.helpers import ArrayVolume, random_logits
from tests.settings import config_of
from training.monitor import foreground
from training.rounds import TargetLabels
from training.setup import build_learning
from training.validation import Validation
from utils.ignore import IGNORE


def random_masks(seed: int, shape: tuple[int, ...], ignored: float = 0.3) -> np.ndarray:
    draw = np.random.default_rng(seed)
    masks = (draw.random(shape) < 0.3).astype(np.uint8)
    masks[draw.random(shape) < ignored] = IGNORE
    return masks


def kept(logits: torch.Tensor, labels: np.ndarray) -> float:
    """Mean cross entropy over what counts, pixel by pixel."""
    where = torch.from_numpy(labels != IGNORE)
    labels = torch.from_numpy(labels.astype(np.int64))
    return float(F.cross_entropy(logits.movedim(1, -1)[where], labels[where]))


def test_supervised_losses_are_of_the_pixels_that_count() -> None:
    logits = random_logits(0)
    masks = random_masks(1, (2, 2, 5, 7))
    one, other = masks[:, 0], masks[:, 1]
    differ = np.where((one == IGNORE) | (other == IGNORE), IGNORE, one ^ other)
    found = supervised_losses(*logits, torch.from_numpy(masks).long())
    expected = [
        kept(maps, labels) for maps, labels in zip(logits, (one, other, differ), strict=True)
    ]
    assert [loss.item() for loss in found.values()] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(
        inter_section_residual(torch.from_numpy(masks).long()).numpy(), differ
    )
    sum(found.values()).backward()
    assert (logits[0].grad.movedim(1, -1).numpy()[one == IGNORE] == 0).all()
    assert (logits[2].grad.movedim(1, -1).numpy()[differ != IGNORE] != 0).all()


def test_consistency_counts_where_both_sections_do() -> None:
    logits = random_logits(3)
    ignored = random_masks(4, (2, 2, 5, 7)) == IGNORE
    labels = [np.where(ignored.any(1), IGNORE, label.numpy()) for label in pseudo_labels(*logits)]
    loss = consistency_loss(*logits, torch.from_numpy(ignored))
    expected = kept(logits[0], labels[0]) + kept(logits[1], labels[1])
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    none = torch.zeros(2, 2, 5, 7, dtype=torch.bool)
    assert torch.equal(consistency_loss(*logits, none), consistency_loss(*logits))


def test_a_batch_of_which_nothing_counts_has_no_loss_and_teaches_nothing() -> None:
    images = torch.rand(1, 2, 32, 32)
    nothing = torch.full((1, 2, 32, 32), IGNORE)
    learning = build_learning(config_of(width=2), torch.device("cpu"))
    before = {name: value.clone() for name, value in learned(learning).items()}
    for step, arguments in (
        (learning.steps.source, (images, nothing)),
        (learning.steps.target, (images, nothing)),
    ):
        report = step(1, *arguments)
        assert report["skipped"] == 0
        assert all(report[name] == 0 for name in report if name.startswith(("seg_", "grad_")))
    report = learning.steps.adapt(1, images, nothing, images, nothing == IGNORE)
    assert report["consistency_target"] == 0
    assert report["adv_target_seg"] > 0  # the discriminators see it all the same
    assert report["skipped"] == 0
    assert before.keys() == learned(learning).keys()
    assert all(value.isfinite().all() for value in learned(learning).values())


def learned(learning) -> dict[str, torch.Tensor]:
    return learning.learner.networks["segmentor"].state_dict()


def test_ignored_pixels_of_the_target_change_no_loss() -> None:
    source, target = torch.rand(2, 1, 2, 32, 32)
    masks = torch.from_numpy(random_masks(5, (1, 2, 32, 32))).long()
    ignored = torch.zeros(1, 2, 32, 32, dtype=torch.bool)
    reports = {}
    for name, part in (("none", None), ("no pixel", ignored), ("half", ignored.clone())):
        if name == "half":
            part[..., :16] = True
        torch.manual_seed(0)
        settings = config_of(width=2, cross_loss_source=True, consistency_weight_rampup=False)
        learning = build_learning(settings, torch.device("cpu"))
        reports[name] = learning.steps.adapt(1, source, masks, target, part)
    for key, value in reports["none"].items():
        assert torch.equal(value, reports["no pixel"][key]), key
    assert reports["half"]["consistency_target"] != reports["none"]["consistency_target"]
    assert reports["half"]["adv_target_seg"] == reports["none"]["adv_target_seg"]


@pytest.mark.parametrize("final_crop", ["random", "centre"])
def test_ignored_pixels_survive_augmentation(final_crop: str) -> None:
    """What is ignored moves as a mask of it would, and the others as if it were background."""
    augment = PairAugmentation(32, final_crop)
    images = np.random.default_rng(0).random((2, 64, 64)).astype(np.float32)
    masks = random_masks(6, (2, 8, 8)).repeat(8, 1).repeat(8, 2)
    kinds = set()
    for seed in range(120):
        _, found = augment(images, masks, seed)
        _, ignored = augment(images, (masks == IGNORE).astype(np.uint8), seed)
        _, mitochondria = augment(images, (masks == 1).astype(np.uint8), seed)
        np.testing.assert_array_equal(found == IGNORE, ignored == 1)
        np.testing.assert_array_equal(found == 1, mitochondria == 1)
        kinds |= set(np.unique(found).tolist())
    assert kinds == {0, 1, IGNORE}


def test_ignored_pixels_survive_anrandomise_domain() -> None:
    images = np.random.default_rng(0).random((2, 40, 40)).astype(np.float32)
    masks = random_masks(7, (2, 40, 40))
    _, found = randomise_domain(images, masks, np.random.default_rng(1))
    _, ignored = randomise_domain(images, (masks == IGNORE) * np.uint8(1), np.random.default_rng(1))
    np.testing.assert_array_equal(found == IGNORE, ignored == 1)


def sections(count: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(8)
    found = []
    for seed in range(count):
        label = random_masks(seed, (37, 53))
        probability = 0.3 * (label == 1) + 0.7 * draw.random(label.shape)
        found.append((probability.astype(np.float32), label))
    return found


def test_scores_are_sklearns_on_the_pixels_that_count() -> None:
    expected, probabilities, labels = [], [], []
    per_section, pooled, dice = SectionScores(), PooledScores(), DiceScores()
    for probability, label in sections():
        truth, values = (label == 1)[label != IGNORE], probability[label != IGNORE]
        mask = values >= 0.5
        expected.append(
            (
                sk.average_precision_score(truth, values),
                sk.f1_score(truth, mask),
                sk.matthews_corrcoef(truth, mask),
                sk.jaccard_score(truth, mask),
            )
        )
        assert score(probability, label) == pytest.approx(expected[-1], abs=1e-9)
        assert average_precision(probability, label) == pytest.approx(expected[-1][0], abs=1e-9)
        for scores in (per_section, pooled):
            scores.add(probability, label)
        dice.add(probability >= 0.5, label)
        probabilities.append(values)
        labels.append(truth)
    means = np.mean(expected, 0)
    assert per_section.result() == pytest.approx(means, abs=1e-9)
    assert dice.result() == pytest.approx((means[1], means[3]), abs=1e-9)
    truth, values = np.concatenate(labels), np.concatenate(probabilities)
    precision, f1, *_ = pooled.result()
    assert precision == pytest.approx(sk.average_precision_score(truth, values), abs=1e-6)
    assert f1 == pytest.approx(sk.f1_score(truth, values >= 0.5), abs=1e-9)


def test_sections_of_which_nothing_counts_are_in_no_mean() -> None:
    nothing = np.zeros((5, 5), np.float32), np.full((5, 5), IGNORE, np.uint8)
    per_section, pooled, dice = SectionScores(), PooledScores(), DiceScores()
    for probability, label in (*sections(), nothing):
        per_section.add(probability, label)
        pooled.add(probability, label)
        dice.add(probability >= 0.5, label)
    expected = np.mean([score(*part) for part in sections()], 0)
    assert per_section.result() == pytest.approx(expected)
    assert dice.result().dice == pytest.approx(expected[1])
    assert per_section.tally.sections == pooled.tally.sections == 3
    assert np.isnan(score(*nothing)).all()
    alone = SectionScores()
    alone.add(*nothing)
    assert np.isnan(alone.result()).all()
    assert np.isnan(DiceScores().result()).all()


def test_objects_are_scored_without_ignored_voxels() -> None:
    predicted = np.zeros((8, 12), np.int64)
    predicted[:, :4], predicted[:, 9:] = 1, 2
    labelled = np.zeros_like(predicted)
    labelled[:, :8] = 5
    ignored = np.zeros(predicted.shape, bool)
    ignored[:, 4:] = True  # the half of 5 that is missed, and all of 2
    plain, scorer = InstanceScorer(), InstanceScorer()
    plain.add(predicted, labelled)
    scorer.add(predicted, labelled, ignored)
    assert plain.result([0.6, 0.9]).AP75 == 0
    assert scorer.result([0.6, 0.9]) == (1,) * 6
    assert scorer.notes.startswith("instances: 1 predicted, 1 labelled")


def test_statistics_of_labels_leave_them_out() -> None:
    masks = np.zeros((4, 10, 10), np.uint8)
    masks[:, :5] = IGNORE
    masks[:, 5] = 1
    assert foreground(ArrayVolume(masks)) == pytest.approx(0.2)
    images = ArrayVolume(np.random.default_rng(0).integers(0, 255, masks.shape).astype(np.uint8))
    assert inspect_labels(images, ArrayVolume(masks)).fraction == pytest.approx(0.2)


def test_contours_are_of_mitochondria_alone() -> None:
    label = np.zeros((20, 20), np.uint8)
    label[2:8, 2:8] = IGNORE
    empty = np.zeros_like(label)
    section = np.arange(400, dtype=np.float32).reshape(20, 20)
    np.testing.assert_array_equal(contours(section, empty, label), contours(section, empty))


# A volume with a black border, a black section and labels that ignore a part.

SHAPE = (6, 64, 80)
BLANK = 12  # columns


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data tree of such a volume, which is source, target and validation volume at once."""
    root = tmp_path_factory.mktemp("data")
    images, labels = make_volume(3, SHAPE, TARGET_MICROSCOPE)
    labels = (labels > 0).astype(np.uint8)
    write_sections(root / "clean", images)
    images[:, :, :BLANK] = 0
    images[4] = 0
    labels[:, -8:] = IGNORE
    write_sections(root / "images", images)
    write_sections(root / "labels", labels)
    with h5py.File(root / "images.h5", "w") as file:
        file["main"] = images
    with h5py.File(root / "labels.h5", "w") as file:
        file["main"] = labels
    return root


@pytest.fixture
def run(data: Path, tmp_path: Path, command):
    """Run a command on it."""

    def call(script: str, *arguments: object, kind: str = "", **settings: dict):
        values = {
            "NAME": "tiny",
            "MODEL": {"width": 2},
            "TRAIN": {
                "total_iters": 6, "rampup_iters": 3, "learning_rate": 1e-2, "display_freq": 1,
                "show_freq": 3, "valid_freq": 3, "save_freq": 3, "num_workers": 0,
                "precision": "float32", "if_cuda": False, "cross_loss_source": True,
            },
            "DATA": {
                "data_dir_img": f"images{kind}", "data_dir_label": f"labels{kind}",
                "data_dir_target": f"images{kind}", "target_stride": 1, "input_size": 32,
                "data_dir_val": f"images{kind}", "data_dir_val_label": f"labels{kind}",
                "input_size_test": 48, "pixel_size_target": 10, "section_spacing_target": 10,
            },
            "TEST": {"padded_size": 96, "tile": 32, "tile_step": 16, "tile_pad": 16,
                     "precision": "float32"},
        }  # fmt: skip
        for section, keys in settings.items():
            values[section] = values.get(section, {}) | keys
        config = tmp_path / "tiny.yaml"
        config.write_text(yaml.safe_dump(values))
        places = ("-c", config, "--data", data, "--out", tmp_path, "--device", "cpu")
        finished = command(script, *places, *arguments)
        assert finished.code == 0, finished.err
        return finished.out + finished.err

    return call


PLUS = {
    "TRAIN": {"weight_adv_spatial": 0.0, "weight_adv_temporal": 0.0},
    "BEYOND": {
        "warmup_fraction": 0.4,
        "rounds": 1,
        "orthoplane": True,
        "histogram_matching": True,
        "foreground_ratio_limit": 0,
    },
}


@pytest.mark.parametrize("kind", ["", ".h5"])
@pytest.mark.parametrize("beyond", [False, True])
def test_a_run_learns_predicts_and_scores(
    run, data: Path, tmp_path: Path, kind: str, beyond: bool
) -> None:
    run("main", kind=kind, **(PLUS if beyond else {}))
    share = (BLANK / SHAPE[2] * 5 + 1) / 6
    assert "nan" not in (tmp_path / "logs/tiny/loss.txt").read_text(encoding="utf-8")
    test = {"TEST": {"orthoplane": beyond}} if beyond else {}
    said = run("inference", "--report", kind=kind, **test)
    assert f"blank areas: {share:.2%} of the volume" in said
    assert f"{8 / SHAPE[1]:.2%} of the labels' pixels are ignored" in said
    out = tmp_path / "inference" / "tiny"
    with h5py.File(out / "preds.hdf") as file:
        found = file["main"][:]
    assert np.isfinite(found).all()
    assert (found[:, :, :BLANK] == 0).all()
    assert (found[4] == 0).all()
    assert np.argwhere(found[:4, :, BLANK:] == 0).tolist() == []
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    labels = open_volume(data / f"labels{kind}")
    expected = []
    for index in (0, 1, 2, 3, 5):  # nothing of section 4 counts
        kept = np.s_[: SHAPE[1] - 8, BLANK:]
        expected.append(score(found[index][kept], labels.section(index)[kept]))
    assert list(summary["scores"].values()) == pytest.approx(np.mean(expected, 0), abs=1e-6)
    assert summary["blank"] == pytest.approx(share)
    assert "blank areas" in (out / "report.html").read_text(encoding="utf-8")


def test_predictions_of_the_tissue_hardly_differ(run, data: Path, tmp_path: Path) -> None:
    """As a network of random weights sees it: InstanceNorm carries what is blank everywhere."""
    run("main", TRAIN={"total_iters": 2})
    found = {}
    for name in ("clean", "images"):
        run("inference", DATA={"data_dir_val": name})
        with h5py.File(tmp_path / "inference/tiny/preds.hdf") as file:
            found[name] = file["main"][:4, :, BLANK + 8 :]
    assert np.abs(found["clean"] - found["images"]).mean() < 0.2 * found["clean"].std()


def test_a_target_is_labelled_without_its_blank_areas(data: Path, tmp_path: Path) -> None:
    images = open_volume(data / "images", fill=True)
    config = config_of(
        beyond={"rounds": 1, "warmup_fraction": 0.4}, weight_adv_spatial=0, weight_adv_temporal=0
    )
    labels = TargetLabels(config, images, 0.1, tmp_path)

    segmentor = Segmentor(2)
    segmentor.begin_at(0.999)  # it finds mitochondria everywhere
    labels.make(3, NetworkPredictor(segmentor, torch.device("cpu")), lambda: None)
    masks = labels.open(3)
    for index in range(6):
        np.testing.assert_array_equal(masks.section(index) == 0, images.blank(index))
    assert labels.check(3, masks).found == pytest.approx(5 / 6)  # section 4 has no tissue


def test_validation_scores_what_counts(data: Path) -> None:
    images = open_volume(data / "images", fill=True)
    labels = open_volume(data / "labels", masks=True)
    validation = Validation(config_of(), images, labels)
    pairs = iter(validation.pairs)

    class Exact:
        """Finds the mitochondria, and some wherever nothing counts."""

        device = torch.device("cpu")

        def encode(self, sections):
            return sections

        def decode(self, current, auxiliary):
            found = []
            for index in next(pairs):
                mask = labels.section(index) > 0
                mask[:, :BLANK] = True
                found.append(validation.windows.pad(mask.astype(np.float32)))
            return torch.from_numpy(np.stack(found))[None]

    assert validation(Exact()) == pytest.approx({"dice": 1, "jac": 1})


def test_inspect_volume_and_new_config_say_it(command, data: Path, tmp_path: Path) -> None:
    finished = command("inspect_volume", data / "images", "--json")
    facts = json.loads(finished.out)
    share = (BLANK / SHAPE[2] * 5 + 1) / 6
    assert facts["blank"] == pytest.approx(share)
    assert facts["grey_range"][0] == 0  # of the values in the file
    assert any("are blank" in line for line in facts["warnings"])
    assert f"blank areas   {share:.2%}" in command("inspect_volume", data / "images").out
    beside = tmp_path / "images"
    shutil.copytree(data / "images", beside)  # which nobody has been warned of yet
    finished = command(
        "new_config", "--source", data / "clean", data / "labels", "--target", beside,
        "-o", tmp_path / "mine.yaml",
    )  # fmt: skip
    assert f"{share:.2%} of the pixels examined are blank" in finished.err

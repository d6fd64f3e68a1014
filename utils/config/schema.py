"""The typed schema of a config, with defaults.

Keys have the names of the published YAML files. A field marked *published* is accepted so that
those files load unchanged; it has no effect.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from utils.paths import address_of


def _parse_size(value: Any) -> Any:
    """512, [512, 512] or "512, 512" -> (512, 512)."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value, value]
    return value[0:1] * 2 if isinstance(value, list) and len(value) == 1 else value


LARGEST = 2**31  # upper limit of counts
PositiveInt = Annotated[int, Field(gt=0, lt=LARGEST)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Nanometres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_parse_size)]
Optimiser = Annotated[
    Literal["adam", "sgd"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]
Precision = Literal["auto", "float32", "bfloat16"]
# of a volume; an address keeps its two slashes where the config is written
VolumePath = Annotated[
    Path, PlainSerializer(lambda path: address_of(path) or str(path), when_used="json")
]
Ignored = Any


def check_run_name(name: str) -> str:
    """The name, if it can name a folder; raises ValueError."""
    if not name or name in (".", "..") or set(name) & set("/\\"):
        raise ValueError(f"NAME: found {name!r}, expected the name of a folder")
    return name


RunName = Annotated[str, AfterValidator(check_run_name)]


class Settings(BaseModel):
    """Base of the config's sections: unknown keys, and booleans for numbers, are refused.

    An empty string counts as no value, as in the published files.
    """

    model_config = ConfigDict(extra="forbid", validate_default=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        empty = {k for k, v in values.items() if isinstance(v, str) and not v.strip()}
        for key in sorted(empty & cls.model_fields.keys()):
            if cls.model_fields[key].is_required():
                raise ValueError(f"{key}: found {values[key]!r}, expected a value")
        return {k: v for k, v in values.items() if k not in empty or k not in cls.model_fields}

    @model_validator(mode="before")
    @classmethod
    def _no_bool_as_number(cls, values: Any) -> Any:
        for key, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(key)
            numbers = (int, float, Nanometres | None)
            if isinstance(value, bool) and field and field.annotation in numbers:
                raise ValueError(f"{key}: found {value}, expected a number")
        return values


class ModelSettings(Settings):
    """MODEL."""

    # channels at full resolution; published: 64
    width: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = 64
    num_classes: Literal[2] = 2  # background and mitochondria
    input_nc: Ignored = None  # published
    output_nc: Ignored = None  # published
    input_channels: Ignored = None  # published
    level: Ignored = None  # published


class TrainSettings(Settings):
    """TRAIN. The defaults are the published settings."""

    total_iters: PositiveInt = 200_000  # iterations of the run
    batch_size: PositiveInt = 1  # pairs of each domain per iteration
    # seed of weights and samples; -1: random, and written to resolved.yaml
    random_seed: Annotated[int, Field(ge=-1, lt=2**32)] = 555
    # worker processes that load pairs, for each domain
    num_workers: Annotated[int, Field(ge=0, le=1024)] = 2
    if_cuda: bool = True  # use a GPU if there is one (--device overrides)
    precision: Precision = "auto"  # of convolutions; auto: bfloat16 if the device supports it
    # torch.compile, which takes one to four minutes; auto: for runs long enough that it saves more
    # (training/compilation.py)
    compile: Literal["auto"] | bool = "auto"

    learning_rate: Rate = 1e-4  # segmentor
    learning_rate_ms: Rate = 1e-4  # discriminator of masks
    learning_rate_mt: Rate = 1e-4  # discriminator of residuals
    power: Weight = 0.9  # learning rates decay as (1 - iteration / total_iters)^power
    # optimiser of the segmentor; adam: betas 0.9, 0.99; sgd: momentum 0.9, weight decay 0.0005.
    # The discriminators always use Adam
    opt_type: Optimiser = "adam"
    lr_mode: Ignored = None  # published as "fixed", although the published runs decayed

    weight_cross: Weight = 0.1  # of the consistency loss
    cross_loss_target: bool = True  # consistency on the target
    cross_loss_source: bool = False  # consistency on the source too
    consistency_weight_rampup: bool = True  # ramp up weight_cross ...
    rampup_iters: PositiveInt = 50_000  # ... over this many iterations
    weight_adv_spatial: Weight = 0.001  # of the adversarial loss of masks
    weight_adv_temporal: Weight = 0.001  # of the adversarial loss of residuals
    if_adv_weight: Literal[False] = False  # weight discrepancy loss: off in every published run
    lamda_wd: Ignored = None  # published; belongs to if_adv_weight
    loss_func: Ignored = None  # published; cross entropy throughout

    # decay of the moving average of the weights (training/averaging.py); auto: 0.99, or 0.999 in
    # long runs
    average_decay: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = "auto"

    # the weights in model.ckpt: the last ones, or their moving average
    choose_by: Literal["last", "average"] = "average"

    display_freq: PositiveInt = 100  # iterations per line of loss.txt, which has their means
    # iterations between pictures in TensorBoard; 0: no pictures
    show_freq: Annotated[int, Field(ge=0, lt=LARGEST)] = 500
    valid_freq: PositiveInt = 500  # iterations between validations
    save_freq: PositiveInt = 500  # iterations between checkpoints
    # what to do if a loss or gradient is not finite: stop the run, or skip the iteration
    on_nan: Literal["stop", "skip"] = "stop"
    keep_checkpoints: bool = False  # keep the checkpoint of every save_freq
    if_valid: bool = True  # validate if there are validation labels

    # checkpoint whose weights the segmentor starts from, of this project or a published one
    init_from: Path | None = None
    resume: bool = False  # continue from models/<model_name>/training_state.ckpt
    model_name: str | None = None  # the run to continue; default: this run
    save_path: Path = Path("../models")  # folder of the runs' checkpoints
    cache_path: Ignored = None  # published; pictures are in the log folder of the run

    @property
    def adapts(self) -> bool:
        """Whether any loss besides the supervised ones has a positive weight."""
        consistency = self.cross_loss_target or self.cross_loss_source
        return (consistency and self.weight_cross > 0) or self.adversarial

    @property
    def adversarial(self) -> bool:
        """Whether the run has discriminators."""
        return self.weight_adv_spatial + self.weight_adv_temporal > 0


class BeyondSettings(Settings):
    """BEYOND: options that are not in the paper. All are off by default."""

    # fraction of the samples of both domains that are augmented (dataloader/augment.py)
    augmented_fraction: Annotated[float, Field(ge=0, le=1)] = 0.25
    domain_randomisation: bool = False  # of the source (dataloader/domain_randomisation.py)
    # of the source's mitochondria alone (dataloader/class_randomisation.py)
    class_randomisation: bool = False
    histogram_matching: bool = False  # match the histogram of the source to that of the target
    # fraction of the run that trains on the source alone: pseudo labels of an untrained network
    # are empty, and would teach it to find nothing
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # learning rates fall to 0 over the warm-up, and again from this fraction of the initial ones
    # over the rest of the run (training/optimizer.py); 0: they fall once, over the whole run
    restart_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    # probability of mitochondria that the initial mask heads predict (Segmentor.begin_at); 0:
    # PyTorch's initialisation
    head_prior: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # number of times that the whole target is labelled by inference and then trained on alone,
    # evenly spaced after the warm-up (training/rounds.py); 0: never
    rounds: Annotated[int, Field(ge=0)] = 0
    # probability from which a pixel is mitochondria in the labels of the first round, 0.5 in later
    # ones; edges: chosen in each round (prediction/threshold.py), in later ones at least 0.5
    label_threshold: Threshold | Literal["edges"] = 0.5
    # label, and train on, xz and yz slices besides the xy sections; for nearly isotropic voxels
    orthoplane: bool = False
    # a round's labels are not used if their foreground fraction differs from that of the source by
    # more than this factor; 0: no limit
    foreground_ratio_limit: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> "BeyondSettings":
        limit = self.foreground_ratio_limit
        if limit and not self.rounds:
            raise ValueError(
                f"foreground_ratio_limit: found {limit:g} without rounds, whose labels it checks; "
                "set rounds, or 0 here"
            )
        if self.restart_rate and not self.warmup_fraction:
            raise ValueError(
                f"restart_rate: found {self.restart_rate:g} without warmup_fraction, after which "
                "the learning rates restart; set warmup_fraction, or 0 here"
            )
        if self.label_threshold != 0.5 and not self.rounds:
            raise ValueError(
                f"label_threshold: found {self.label_threshold} without rounds, whose labels it "
                "makes; set rounds, or 0.5 here"
            )
        if self.rounds and not self.warmup_fraction:
            raise ValueError(
                "rounds: found warmup_fraction 0, expected more, such as 0.4: only a trained "
                "network can label the target"
            )
        if self.orthoplane and not self.rounds:
            raise ValueError(
                "orthoplane: found true without rounds, whose labels it extends; set rounds"
            )
        if 0 < limit <= 1:
            raise ValueError(
                f"foreground_ratio_limit: found {limit:g}, expected 0 or a factor above 1"
            )
        return self


class SourceSettings(Settings):
    """A labelled source volume: an entry of ``DATA.sources``."""

    data_dir_img: VolumePath  # source sections
    data_dir_label: VolumePath  # their masks
    data_list: Path | None = None  # text file with the names of the sections to use, one per line
    source_stride: PositiveInt = 1  # sections from the current to the auxiliary one
    pixel_size_source: Nanometres | None = None  # in-plane, nm; None: from the file, if it has one
    section_spacing_source: Nanometres | None = None  # nm; None: from the file, if it has one


class DataSettings(SourceSettings):
    """DATA. Paths are relative to the data root; docs/formats.md lists the formats.

    The source is one volume, or several in ``sources``. With ``sources``, the keys of a single
    source have the values of the first one.
    """

    sources: tuple[SourceSettings, ...] = ()  # source pairs come from them with equal probability
    input_size: Size = (512, 512)  # crop, pixels

    data_dir_target: VolumePath  # target sections, without labels
    data_dir_target_label: VolumePath | None = None  # never read in training
    data_list_target: Path | None = None
    target_stride: PositiveInt = 1
    # corrected masks of some target sections (dataloader/corrections.py); main.py --corrections
    corrections: VolumePath | None = None
    input_size_target: Size | None = None  # must equal input_size

    data_dir_val: VolumePath | None = None  # the volume to score
    data_dir_val_label: VolumePath | None = None  # its masks, if it has any
    data_list_val: Path | None = None
    # for HDF5 volumes, pixels: tiles in inference, and the square scored in training
    input_size_test: Size = (1024, 1024)

    pixel_size_target: Nanometres | None = None  # of target and validation volume
    # sections are resampled to it; None: the coarsest of all, if all are known and they differ
    pixel_size_working: Nanometres | None = None
    section_spacing_target: Nanometres | None = None  # of target and validation volume

    @model_validator(mode="after")
    def _consistent(self) -> "DataSettings":
        if self.input_size[0] != self.input_size[1]:
            raise ValueError(f"input_size: found {self.input_size}, expected a square")
        if any(side % 16 or side < 32 for side in self.input_size):
            raise ValueError(
                f"input_size: found {self.input_size}, expected multiples of 16, at least 32"
            )
        if self.input_size_target not in (None, self.input_size):
            raise ValueError(
                f"input_size_target: found {self.input_size_target}, expected {self.input_size} "
                "like input_size: both domains share a batch"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _first_source(cls, values: Any) -> Any:
        """Give the keys of a single source the values of the first in ``sources``."""
        if not isinstance(values, dict) or not values.get("sources"):
            return values
        sources = values["sources"]
        first = sources[0] if isinstance(sources, (list, tuple)) else None
        first = first if isinstance(first, dict) else {}
        filled = dict(values)
        for key, field in SourceSettings.model_fields.items():
            # a missing path is reported as missing in the entry
            filled[key] = first.get(key, "missing" if field.is_required() else field.default)
            if values.get(key) not in (None, filled[key]):
                raise ValueError(
                    f"{key}: found {values[key]} besides sources; expected it in their list only"
                )
        return filled

    @property
    def each_source(self) -> tuple["DataSettings", ...]:
        """The settings with one of the sources each."""
        if not self.sources:
            return (self,)
        return tuple(
            self.model_copy(update={**dict(source), "sources": ()}) for source in self.sources
        )

    @property
    def crop(self) -> int:
        """Side of the training crops, pixels."""
        return self.input_size[0]


class TestSettings(Settings):
    """TEST: how a volume is predicted."""

    __test__ = False  # keeps pytest from collecting the class

    # auto: whole sections of a folder, tiles of an HDF5 volume
    windows: Literal["auto", "section", "tile"] = "auto"
    # whole sections are reflect-padded to it; None: a square whose side is a multiple of 16, at
    # least 48 pixels on each side of the longer side (1120 for Lucchi)
    padded_size: Size | None = None
    # side of the tiles, pixels; None: DATA.input_size_test
    tile: Annotated[int, Field(ge=32, multiple_of=16)] | None = None
    tile_step: PositiveInt | None = None  # step between tiles, pixels; None: half a tile
    tile_pad: Annotated[int, Field(ge=0)] = 256  # reflect padding of the sections, pixels
    batch_size: PositiveInt = 1  # windows per batch
    precision: Precision = "auto"  # of convolutions; auto: bfloat16 if the device supports it
    # torch.compile; auto: for volumes large enough that it saves more time than it takes
    # (prediction/compilation.py)
    compile: Literal["auto"] | bool = "auto"
    # average the predictions of neighbouring sections over this thickness, nm
    # (prediction/z_average.py); no effect on thicker sections
    z_average: Nanometres | None = None
    # average the predictions of xy, xz and yz slices (prediction/orthoplane.py); for nearly
    # isotropic voxels
    orthoplane: bool = False
    # probability from which a pixel is mitochondria, in masks, objects and pictures; expected_f1,
    # edges: chosen without labels (prediction/threshold.py). Scores: also at 0.5
    threshold: Threshold | Literal["expected_f1", "edges"] = 0.5
    flips: bool = False  # average over the eight flips and rotations of a window; 8 times the work
    pad: Ignored = None  # published
    model_name: str | None = None  # run whose checkpoint to use; -mn overrides

    @model_validator(mode="after")
    def _consistent(self) -> "TestSettings":
        if self.padded_size and any(side % 16 or side < 32 for side in self.padded_size):
            raise ValueError(
                f"padded_size: found {self.padded_size}, expected multiples of 16, at least 32"
            )
        return self


class Config(Settings):
    """The config of an experiment."""

    NAME: RunName  # name of the run and of its folders
    MODEL: ModelSettings = ModelSettings()
    TRAIN: TrainSettings = TrainSettings()
    BEYOND: BeyondSettings = BeyondSettings()
    DATA: DataSettings
    TEST: TestSettings = TestSettings()

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if not self.BEYOND.rounds:
            return self
        if self.TRAIN.adversarial:
            raise ValueError(
                "TRAIN.weight_adv_spatial: BEYOND.rounds requires 0 for both adversarial weights: "
                "a labelled target needs no discriminators"
            )
        return self

    @model_validator(mode="after")
    def _tiles_meet(self) -> "Config":
        if self.TEST.tile_step and self.TEST.tile_step > self.tile:
            raise ValueError(
                f"TEST.tile_step: found {self.TEST.tile_step}, expected at most {self.tile}, the "
                "side of a tile"
            )
        return self

    @property
    def tile(self) -> int:
        """Side of the tiles of an HDF5 volume, pixels."""
        return self.TEST.tile or self.DATA.input_size_test[0]

    @property
    def tile_step(self) -> int:
        """Step between the tiles of an HDF5 volume, pixels."""
        return self.TEST.tile_step or self.tile // 2

    @property
    def warmup_iters(self) -> int:
        """Iterations on the source alone at the start of the run."""
        return round(self.BEYOND.warmup_fraction * self.TRAIN.total_iters)

    def to_yaml(self) -> str:
        """All values as YAML that ``load_config`` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

"""The config: one typed schema with its defaults.

The names of the published YAML files are kept; a field marked *published* is read so that those
files work as they are, and has no effect here.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

if TYPE_CHECKING:
    import torch


def _parse_size(value: Any) -> Any:
    """512, [512, 512] or "512, 512" -> (512, 512)."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value, value]
    return value[0:1] * 2 if isinstance(value, list) and len(value) == 1 else value


LARGEST = 2**31  # of counts; 2,000,000,000 iterations take 30 years
PositiveInt = Annotated[int, Field(gt=0, lt=LARGEST)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Nanometres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_parse_size)]
COMPILATION_PAYS = {"cuda": 5000, "cpu": 500}  # iterations; before, compiling takes longer
Optimiser = Annotated[
    Literal["adam", "sgd"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]
Precision = Literal["auto", "float32", "bfloat16"]
Ignored = Any


def check_run_name(name: str) -> str:
    """A run's name is that of one folder; raises ValueError."""
    if not name or name in (".", "..") or set(name) & set("/\\"):
        raise ValueError(f"NAME: found {name!r}, expected the name of a folder")
    return name


RunName = Annotated[str, AfterValidator(check_run_name)]


class Settings(BaseModel):
    """A section of the config: no unknown key, no number out of a truth value.

    An empty text is as no value at all, as in the published files.
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

    # channels at full size; 64 published
    width: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = 64
    num_classes: Literal[2] = 2  # background and mitochondria
    input_nc: Ignored = None  # published
    output_nc: Ignored = None  # published
    input_channels: Ignored = None  # published
    level: Ignored = None  # published


class TrainSettings(Settings):
    """TRAIN. Defaults are the published settings."""

    total_iters: PositiveInt = 200_000  # iterations of the run
    batch_size: PositiveInt = 1  # pairs of each domain in an iteration
    # of weights and of every draw; -1: draw one, which resolved.yaml then holds
    random_seed: Annotated[int, Field(ge=-1, lt=2**32)] = 555
    # processes that load pairs, for each domain
    num_workers: Annotated[int, Field(ge=0, le=1024)] = 2
    if_cuda: bool = True  # use a GPU where there is one (--device decides otherwise)
    precision: Precision = "auto"  # of convolutions; auto: bfloat16 on devices made for it
    compile: Literal["auto"] | bool = "auto"  # torch.compile, which takes a minute or two; auto:
    # for runs of 5,000 iterations or more on CUDA, of 500 or more on the CPU

    learning_rate: Rate = 1e-4  # segmentor
    learning_rate_ms: Rate = 1e-4  # discriminator of masks
    learning_rate_mt: Rate = 1e-4  # discriminator of residuals
    power: Weight = 0.9  # rates fall as (1 - it / total_iters)^power
    # of the segmentor; adam: betas 0.9, 0.99; sgd: momentum 0.9, weight decay 0.0005. The
    # discriminators' is Adam
    opt_type: Optimiser = "adam"
    lr_mode: Ignored = None  # published as "fixed", though the published runs decayed, as here

    weight_cross: Weight = 0.1  # of the consistency loss
    cross_loss_target: bool = True  # consistency on the target
    cross_loss_source: bool = False  # consistency on the source too
    consistency_weight_rampup: bool = True  # raise weight_cross slowly ...
    rampup_iters: PositiveInt = 50_000  # ... over these iterations
    weight_adv_spatial: Weight = 0.001  # adversarial, masks
    weight_adv_temporal: Weight = 0.001  # adversarial, residual
    if_adv_weight: Literal[False] = False  # weight discrepancy: off in every published run
    lamda_wd: Ignored = None  # published; belongs to if_adv_weight
    loss_func: Ignored = None  # published; cross entropy throughout

    # of the moving average of the weights (training/averaging.py); auto: 0.99, long runs 0.999
    average_decay: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = "auto"

    # what becomes model.ckpt: the last weights, or the average of the weights
    choose_by: Literal["last", "average"] = "average"

    display_freq: PositiveInt = 100  # iterations between lines in loss.txt, means over them
    show_freq: Annotated[int, Field(ge=0, lt=LARGEST)] = 500  # between pictures in TensorBoard; 0:
    # none
    valid_freq: PositiveInt = 500  # between validations
    save_freq: PositiveInt = 500  # between checkpoints
    on_nan: Literal["stop", "skip"] = "stop"  # at a loss or gradient that is not finite
    keep_checkpoints: bool = False  # keep one file per save_freq, not only the last and the best
    if_valid: bool = True  # validate where validation labels exist

    resume: bool = False  # go on from models/<model_name>/training_state.ckpt
    model_name: str | None = None  # the run to go on with; default: this one
    save_path: Path = Path("../models")  # where runs leave their checkpoints
    cache_path: Ignored = None  # published; pictures are in the run's log folder

    @property
    def adapts(self) -> bool:
        """Whether any loss besides the supervised ones has a weight."""
        consistency = self.cross_loss_target or self.cross_loss_source
        return (consistency and self.weight_cross > 0) or self.adversarial

    @property
    def adversarial(self) -> bool:
        """Whether there are discriminators."""
        return self.weight_adv_spatial + self.weight_adv_temporal > 0

    def compiles(self, device: "torch.device") -> bool:
        """Whether the networks are compiled for a device."""
        if self.compile == "auto":
            return self.total_iters >= COMPILATION_PAYS.get(device.type, math.inf)
        return self.compile


class BeyondSettings(Settings):
    """BEYOND: what the paper does not have. All is off by default."""

    domain_randomisation: bool = False  # show the source as other microscopes might
    histogram_matching: bool = False  # match the source's grey levels to the target's
    # fraction of the run that learns from the source alone: the pseudo labels of a network that
    # finds nothing yet teach it to find nothing
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # probability of mitochondria that the mask heads start from, as in detectors
    # (Segmentor.begin_at); 0: PyTorch's initialisation
    head_prior: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # how often the whole target is labelled, as inference does, and then learned from alone; evenly
    # spaced after the warm-up (training/rounds.py); 0: never
    rounds: Annotated[int, Field(ge=0)] = 0
    # rounds label xy sections and xz and yz slices, and all three are learned from; for volumes
    # whose voxels are nearly cubes
    orthoplane: bool = False
    # factor by which the foreground of a round's labels may differ from the source's; beyond it
    # they are not used; 0: no limit
    foreground_ratio_limit: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> "BeyondSettings":
        limit = self.foreground_ratio_limit
        if limit and not self.rounds:
            raise ValueError(
                f"foreground_ratio_limit: found {limit:g}, expected rounds with it, whose labels "
                "it checks"
            )
        if self.rounds and not self.warmup_fraction:
            raise ValueError(
                "rounds: found warmup_fraction 0, expected more, such as 0.4: only a trained "
                "network can label the target"
            )
        if self.orthoplane and not self.rounds:
            raise ValueError(
                "orthoplane: found true, expected rounds with it, which label a volume"
            )
        if 0 < limit <= 1:
            raise ValueError(
                f"foreground_ratio_limit: found {limit:g}, expected 0 or a factor above 1"
            )
        return self


class DataSettings(Settings):
    """DATA. Paths are under the data root; ``dataloader/formats`` says what a volume may be."""

    data_dir_img: Path  # source sections
    data_dir_label: Path  # their masks
    data_list: Path | None = None  # text file: names of the sections to use, one a line
    source_stride: PositiveInt = 1  # sections between current and auxiliary
    input_size: Size = (512, 512)  # crop, pixels

    data_dir_target: Path  # target sections, without labels
    data_dir_target_label: Path | None = None  # never read in training
    data_list_target: Path | None = None
    target_stride: PositiveInt = 1
    input_size_target: Size | None = None  # must equal input_size

    data_dir_val: Path | None = None  # the volume that is scored
    data_dir_val_label: Path | None = None  # its masks, if it has any
    data_list_val: Path | None = None
    # of HDF5 volumes, pixels: side of a tile in inference, and of the square that training scores
    input_size_test: Size = (1024, 1024)

    pixel_size_source: Nanometres | None = None  # in-plane, nm; None: as the file says, if it does
    pixel_size_target: Nanometres | None = None  # of target and validation
    pixel_size_working: Nanometres | None = None  # sections are resampled to it; None: to the
    # coarser of the two where they are known and differ
    section_spacing_source: Nanometres | None = None  # between sections, nm; None: as the file says
    section_spacing_target: Nanometres | None = None  # of target and validation

    @model_validator(mode="after")
    def _consistent(self) -> "DataSettings":
        if self.input_size[0] != self.input_size[1]:
            raise ValueError(f"input_size: found {self.input_size}, expected a square")
        if any(side % 16 or side < 32 for side in self.input_size):
            raise ValueError(
                f"input_size: found {self.input_size}, expected multiples of 16 from 32 on"
            )
        if self.input_size_target not in (None, self.input_size):
            raise ValueError(
                f"input_size_target: found {self.input_size_target}, expected {self.input_size} "
                "as input_size: both domains share a batch"
            )
        return self

    @property
    def crop(self) -> int:
        """Side of the training crops, pixels."""
        return self.input_size[0]


class TestSettings(Settings):
    """TEST: how a volume is predicted."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    windows: Literal["auto", "section", "tile"] = "auto"  # auto: whole sections of a folder,
    # tiles of an HDF5 volume
    padded_size: Size | None = None  # whole sections are reflect-padded to it; None: a square, 48
    # pixels or more round the longer side, multiple of 16 (1120 for Lucchi)
    # side of the tiles, pixels; None: DATA.input_size_test
    tile: Annotated[int, Field(ge=32, multiple_of=16)] | None = None
    tile_step: PositiveInt | None = None  # between tiles, pixels; None: half a tile
    tile_pad: Annotated[int, Field(ge=0)] = 256  # reflect padding round the volume, pixels
    batch_size: PositiveInt = 1  # windows predicted at a time
    precision: Precision = "auto"  # of convolutions; auto: bfloat16 on devices made for it
    # average the predictions of neighbouring sections over this thickness, nm
    # (prediction/z_average.py); no effect on sections that are thicker
    z_average: Nanometres | None = None
    # average the predictions of xy sections and xz and yz slices (prediction/orthoplane.py); for
    # volumes whose voxels are nearly cubes
    orthoplane: bool = False
    flips: bool = False  # average over the eight flips and rotations of a window: 8 x the work
    pad: Ignored = None  # published
    model_name: str | None = None  # run whose checkpoint is used; -mn overrides

    @model_validator(mode="after")
    def _consistent(self) -> "TestSettings":
        if self.padded_size and any(side % 16 or side < 32 for side in self.padded_size):
            raise ValueError(
                f"padded_size: found {self.padded_size}, expected multiples of 16 from 32 on"
            )
        return self


class Config(Settings):
    """A whole experiment."""

    NAME: RunName  # of the run and its folders
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
                "TRAIN.weight_adv_spatial: found BEYOND.rounds besides, expected 0 for both "
                "adversarial weights: a labelled target needs no discriminators"
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
        """Between the tiles of an HDF5 volume, pixels."""
        return self.TEST.tile_step or self.tile // 2

    @property
    def warmup_iters(self) -> int:
        """Iterations on the source alone at the start of the run."""
        return round(self.BEYOND.warmup_fraction * self.TRAIN.total_iters)

    def to_yaml(self) -> str:
        """Every value in force, as YAML that ``load_config`` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

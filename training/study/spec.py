"""The YAML file of a study, and the runs that it lists."""

import re
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError, model_validator

from model.checkpoint import MODEL
from utils.config.load import load_config
from utils.config.schema import Settings
from utils.config.yaml_text import read_yaml
from utils.errors import UserError
from utils.paths import CONFIG_DIR

STUDIES = CONFIG_DIR / "studies"


class Row(Settings):
    """One row of a study's table: a setting that is trained with each seed."""

    name: str  # as shown in the table
    set: tuple[str, ...] = ()  # config overrides, SECTION.key=value
    config: str | None = None  # replaces the study's config
    of: str | None = None  # name of the row whose networks this row predicts with
    checkpoint: str | None = None  # file to score, replaces the study's checkpoints
    sections: str | None = None  # file in config/ with names of sections; only these are scored
    worst: bool = False  # draw the section that the first seed predicts worst
    seeds: tuple[int, ...] | None = None  # a subset of the study's seeds
    pairs: tuple[str, ...] | None = None  # a subset of the study's pairs


class Study(Settings):
    """The YAML file of a study."""

    title: str
    about: str = ""  # paragraph above the table
    found: str = ""  # paragraph below the table: the conclusions
    config: str  # name in config/, or a path
    seeds: Annotated[list[int], Field(min_length=1)]
    set: tuple[str, ...] = ()  # config overrides of all runs
    checkpoints: Annotated[tuple[str, ...], Field(min_length=1)] = (MODEL,)  # each is scored
    # pairs of volumes: name, and config overrides; each row is trained for each of them
    pairs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    rows: Annotated[list[Row], Field(min_length=1)]

    def scored(self, row: Row) -> tuple[str, ...]:
        """The files of the checkpoints that are scored for a row."""
        return (row.checkpoint,) if row.checkpoint else self.checkpoints

    @model_validator(mode="after")
    def _one_row_a_pair(self) -> "Study":
        """Replace each row by one for each of its pairs; those of a pair follow each other."""
        for row in self.rows:
            if unknown := set(row.pairs or ()) - set(self.pairs):
                known = ", ".join(self.pairs) or "no pairs"
                raise ValueError(f"{row.name}: pairs: found {min(unknown)!r}, expected {known}")
        rows = [
            _of_pair(row, pair, overrides)
            for pair, overrides in self.pairs.items()
            for row in self.rows
            if pair in (row.pairs or self.pairs)
        ]
        self.rows = rows or self.rows
        return self


def _of_pair(row: Row, pair: str, overrides: tuple[str, ...]) -> Row:
    changes = {"name": f"{pair}, {row.name}", "set": (*overrides, *row.set), "pairs": None}
    if row.of:
        changes["of"] = f"{pair}, {row.of}"
    return row.model_copy(update=changes)


class Run(NamedTuple):
    """One row with one seed.

    Attributes:
        row, seed: of the study.
        name: ``<study>-<row>-<seed>``; names the run's logs.
        model: name of the run that trains the network; another run's in a row ``of`` another row.
        config: name or path of the config.
        overrides: of the config, ``SECTION.key=value``.
    """

    row: Row
    seed: int
    name: str
    model: str
    config: str
    overrides: list[str]


def load_study(name: str) -> tuple[Study, str]:
    """Read a study.

    Args:
        name: ``studies/ablation_small``, ``ablation_small`` or the path of a YAML file.

    Returns:
        The study and its name, the stem of the file.

    Raises:
        UserError: the file does not exist or is not a valid study.
    """
    candidates = [Path(name), CONFIG_DIR / f"{name}.yaml", STUDIES / f"{name}.yaml"]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        known = ", ".join(sorted(file.stem for file in STUDIES.glob("*.yaml")))
        raise UserError(
            f"-c {name}: no such study; expected the path of a YAML file or one of {known}"
        )
    try:
        return Study.model_validate(read_yaml(path.read_text(encoding="utf-8"))), path.stem
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        raise UserError(f"{path}: {place}{first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None


def list_runs(study: Study, name: str) -> list[Run]:
    """All runs of a study, ordered by seed, then by row.

    Args:
        study: the study.
        name: of the study; the names of the runs begin with it.

    Raises:
        UserError: a row or a config is invalid.
    """
    trained = {row.name: row for row in study.rows if not row.of}
    for row in study.rows:
        _check_row(row, study, name, list(trained))
    runs: dict[str, Run] = {}
    for seed in study.seeds:
        for row in study.rows:
            if seed not in (row.seeds or study.seeds):
                continue
            run = _run(row, trained[row.of] if row.of else row, seed, study, name)
            if run.name in runs:
                raise UserError(f"{name}: two rows are called {row.name!r}")
            runs[run.name] = run
    return list(runs.values())


def _check_row(row: Row, study: Study, name: str, trained: list[str]) -> None:
    place = f"{name}: {row.name}"
    if row.of and row.of not in trained:
        raise UserError(f"{place}: of: found {row.of!r}, expected one of {', '.join(trained)}")
    if row.sections and not (CONFIG_DIR / row.sections).is_file():
        raise UserError(f"{place}: sections: found {row.sections!r}, expected a list in config/")
    if not set(row.seeds or ()) <= set(study.seeds):
        known = ", ".join(map(str, study.seeds))
        raise UserError(f"{place}: seeds: found {row.seeds}, expected some of {known}")


def _run(row: Row, base: Row, seed: int, study: Study, name: str) -> Run:
    """The run of a row that uses the networks of ``base``, which may be the row itself."""
    sets = row.set if row is base else (*base.set, *row.set)
    overrides = [*study.set, *sets, f"TRAIN.random_seed={seed}"]
    config = base.config or study.config
    load_config(config, overrides, CONFIG_DIR)  # raises UserError
    own, model = (f"{name}-{_slug(r.name)}-{seed}" for r in (row, base))
    return Run(row, seed, own, model, config, overrides)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")

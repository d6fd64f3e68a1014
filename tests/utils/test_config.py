"""The config: shipped files, published files, and what it says of mistakes."""

from pathlib import Path

import pytest
import yaml

from tests.published_yaml import published_yaml
from utils.config.load import load_config
from utils.config.schema import Config
from utils.errors import UserError
from utils.paths import CONFIG_DIR, Workspace

SHIPPED = sorted(CONFIG_DIR.glob("*.yaml"))

SMALL = {
    "NAME": "small",
    "DATA": {"data_dir_img": "a", "data_dir_label": "b", "data_dir_target": "c"},
}


@pytest.fixture
def load(tmp_path: Path):
    """Load the small config, or another text, with overrides."""
    path = tmp_path / "some.yaml"

    def load_text(*overrides: str, text: str | None = None) -> Config:
        path.write_text(yaml.safe_dump(SMALL) if text is None else text)
        return load_config(str(path), list(overrides), CONFIG_DIR).config

    load_text.path = path
    return load_text


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_load_by_name_and_by_path(path: Path) -> None:
    name = path.stem
    by_name = load_config(name, [], CONFIG_DIR)
    assert by_name.path == path
    assert name == by_name.config.NAME
    assert load_config(str(path), [], Path("nowhere")).config == by_name.config


def test_the_published_settings_are_shipped() -> None:
    # target stride, adversarial weights, ramp
    rows = {
        "vnc2lucchi1": (10, 0.001, True),
        "vnc2lucchi2": (10, 0.001, True),
        "mitor2h": (1, 0.01, False),
        "mitoh2r": (1, 0.001, True),
    }
    for name, (stride, adversarial, ramp) in rows.items():
        config = load_config(name, [], CONFIG_DIR).config
        train, data = config.TRAIN, config.DATA
        assert config.MODEL.width == 64
        assert (data.source_stride, data.target_stride, data.crop) == (1, stride, 512)
        assert train.weight_adv_spatial == train.weight_adv_temporal == adversarial
        assert train.consistency_weight_rampup is ramp
        assert (train.weight_cross, train.total_iters, train.rampup_iters) == (0.1, 200_000, 50_000)
        rates = (train.learning_rate, train.learning_rate_ms, train.learning_rate_mt)
        assert rates == (1e-4, 1e-4, 1e-4)
        assert (train.batch_size, train.random_seed) == (1, 555)
        assert (config.tile, config.tile_step, config.TEST.tile_pad) == (1024, 512, 256)


@pytest.mark.parametrize("size", ["512", "[512, 512]", "[512]", "'512'", "'512, 512'"])
def test_published_files_load_unchanged(load, size: str) -> None:
    config = load(text=published_yaml("vnc2lucchi1", size))
    train, data = config.TRAIN, config.DATA
    assert train.learning_rate == 1e-4
    assert train.weight_adv_spatial == 1e-3
    assert train.if_cuda is True
    assert data.input_size == data.input_size_target == (512, 512)
    place = Workspace(data=Path("/d"), out=Path("/o"))
    assert place.data_path(data.data_dir_img) == Path("/d/VNC3/training")
    assert place.models(train.save_path, "run") == Path("/o/models/run")


def test_a_key_twice_with_one_value_is_warned_of(load, capsys) -> None:
    text = published_yaml("vnc2lucchi1")
    load(text=text)
    line = 1 + [i for i, t in enumerate(text.splitlines()) if "input_size_target" in t][1]
    assert capsys.readouterr().err == (
        f"warning: {load.path}: line {line}: the key input_size_target is given twice, both times "
        "as 512\n"
    )


@pytest.mark.parametrize("other", ["256", "512.0", "[512, 512]", "true"])
def test_a_key_with_two_values_is_refused(load, other: str) -> None:
    text = yaml.safe_dump(SMALL) + f"TRAIN: {{batch_size: 512, batch_size: {other}}}\n"
    with pytest.raises(UserError) as caught:
        load(text=text)
    line = len(text.splitlines())
    assert f"{load.path}: line {line}: " in str(caught.value)
    assert "the key batch_size is given twice, as 512 and as " in str(caught.value)


def optional_keys() -> list[str]:
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    return ["TRAIN", "MODEL"] + [
        f"{section}.{name}"
        for section, settings in sections.items()
        if section != "NAME"
        for name, field in settings.model_fields.items()
        if not field.is_required()
    ]


@pytest.mark.parametrize("key", optional_keys())
def test_an_empty_text_is_as_no_value(load, key: str) -> None:
    assert load(f"{key}=''") == load()


@pytest.mark.parametrize("key", ["NAME", "DATA.data_dir_img", "DATA.data_dir_target"])
def test_an_empty_text_for_what_is_needed_is_refused(load, key: str) -> None:
    with pytest.raises(UserError, match=rf"^--set {key}='': {key}: found '', expected a value$"):
        load(f"{key}=''")


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("TRAIN.learning_rat=1", "TRAIN.learning_rat", "TRAIN.learning_rate"),
        ("TRAIN.target_strid=1", "TRAIN.target_strid", "DATA.target_stride"),
        ("TRAINING.total_iters=1", "TRAINING", "TRAIN"),
        ("train.total_iters=1", "train", "TRAIN"),
        ("MODEL.Width=4", "MODEL.Width", "MODEL.width"),
    ],
)
def test_unknown_key_is_named_with_the_nearest(load, override, key, nearest) -> None:
    with pytest.raises(UserError) as caught:
        load(override)
    assert str(caught.value).startswith(f"--set {override}: {key}: unknown key")
    assert str(caught.value).endswith(f"nearest is {nearest}")


def test_unknown_key_in_the_file_names_the_file(load) -> None:
    with pytest.raises(UserError, match=r"some\.yaml: DATA\.target_strid: unknown key"):
        load(text=yaml.safe_dump(SMALL | {"DATA": SMALL["DATA"] | {"target_strid": 1}}))


@pytest.mark.parametrize(
    ("section", "keys", "answer"),
    [
        (
            "BEYOND",
            {"teacher": True},
            "BEYOND.teacher: removed after revision 88888e3 (it brought no improvement: "
            "docs/results/removed_options.md); remove it",
        ),
        (
            "BEYOND",
            {"histogram_matching": True, "paste": False, "complementary": "no"},
            "BEYOND.paste, BEYOND.complementary: removed after revision 88888e3 (they brought no "
            "improvement: docs/results/removed_options.md); remove them",
        ),
        (
            "TRAIN",
            {"choose_by": "entropy"},
            "TRAIN.choose_by: the value entropy was removed after revision 88888e3 (it brought no "
            "improvement: docs/results/removed_options.md); remove it",
        ),
    ],
)
def test_what_is_gone_is_answered_with_its_last_revision(load, section, keys, answer) -> None:
    with pytest.raises(UserError) as caught:
        load(text=yaml.safe_dump(SMALL | {section: keys}, sort_keys=False))
    assert str(caught.value) == f"{load.path}: {answer}"
    key = next(iter(set(keys) - {"histogram_matching", "paste"}))
    override = f"{section}.{key}={str(keys[key]).lower()}"
    with pytest.raises(UserError, match=rf"--set {override}: {section}\.{key}: .* 88888e3"):
        load(override)


def test_a_renamed_key_is_answered_with_its_new_name(load) -> None:
    with pytest.raises(UserError, match=r"BEYOND\.begin: renamed to BEYOND\.warmup_fraction; "):
        load(text=yaml.safe_dump(SMALL | {"BEYOND": {"begin": 0.4}}))


@pytest.mark.parametrize(
    "override",
    [
        "TRAIN.total_iters=many",
        "TRAIN.total_iters=1.5",
        "TRAIN.total_iters=true",
        "TRAIN.total_iters=",
        "TRAIN.learning_rate=true",
        "TRAIN.if_valid=perhaps",
        "TRAIN.opt_type=rmsprop",
        "TRAIN.choose_by=best",
        "TRAIN.if_adv_weight=true",
        "MODEL.num_classes=3",
        "DATA.data_dir_img=3",
        "DATA.input_size=large",
        "DATA.input_size=[64, 64, 64]",
        "DATA.pixel_size_target=true",
        "TEST.windows=whole",
        "NAME=[a]",
    ],
)
def test_wrong_type_names_key_and_value(load, override: str) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(UserError) as caught:
        load(override)
    assert str(caught.value).startswith(f"--set {override}: {key}: found ")
    found = yaml.safe_load(value)
    assert str(found) in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "TRAIN.total_iters=0",
        "TRAIN.total_iters=-5",
        "TRAIN.batch_size=0",
        "TRAIN.display_freq=0",
        "TRAIN.rampup_iters=0",
        "TRAIN.num_workers=-1",
        "TRAIN.random_seed=-2",
        "TRAIN.learning_rate=0",
        "TRAIN.learning_rate=.nan",
        "TRAIN.weight_cross=-0.1",
        "TRAIN.weight_adv_spatial=.inf",
        "TRAIN.weight_adv_temporal=.nan",
        "TRAIN.power=-1",
        "TRAIN.power=.inf",
        "TRAIN.power=.nan",
        "MODEL.width=0",
        "MODEL.width=3",
        "DATA.source_stride=0",
        "DATA.target_stride=-1",
        "DATA.input_size=0",
        "DATA.input_size=-16",
        "DATA.input_size=16",  # too small for the four poolings and the discriminators
        "DATA.input_size=[64, 80]",
        "DATA.input_size=100",
        "DATA.input_size_target=64",
        "DATA.pixel_size_source=0",
        "TEST.padded_size=[64, 100]",
        "TEST.padded_size=16",
        "TEST.tile=100",
        "TEST.tile=16",
        "TEST.tile_step=2048",
        "TEST.tile_pad=-1",
        "TEST.batch_size=0",
        "NAME=''",
        "NAME=..",
        "NAME=a/b",
    ],
)
def test_impossible_value_names_key_and_value(load, override: str) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(UserError) as caught:
        load(override)
    assert f"{key}: found " in str(caught.value)
    assert value.strip("[].'") in str(caught.value)


def test_overrides_are_yaml_and_the_last_wins(load) -> None:
    config = load(
        "TRAIN.total_iters=20",
        "TRAIN.total_iters=30",
        "TRAIN.learning_rate=1e-3",
        "DATA.input_size=[64, 64]",
        "DATA.data_dir_val=null",
        "TEST.padded_size=96",
        "NAME=other",
    )
    assert config.TRAIN.total_iters == 30
    assert config.TRAIN.learning_rate == 1e-3
    assert config.DATA.crop == 64
    assert config.DATA.data_dir_val is None
    assert config.TEST.padded_size == (96, 96)
    assert config.NAME == "other"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("TRAIN.total_iters", "expected SECTION.key=value"),
        ("TRAIN.total_iters=[1", "not valid YAML"),
        ("NAME.key=1", "NAME: found 'small', expected keys under it"),
    ],
)
def test_malformed_overrides(load, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NAME: x\n", "DATA: missing"),
        ("NAME: x\nDATA:\n", "DATA.data_dir_img: missing"),
        (yaml.safe_dump({"DATA": SMALL["DATA"]}), "NAME: missing"),
        (yaml.safe_dump(SMALL | {"TRAIN": 3}), "TRAIN: found 3"),
        ("", "expected the sections"),
        ("- a\n", "expected the sections"),
        ("NAME: x\nDATA: [\n", "line 3: not valid YAML"),
        ("NAME: x\nTRAIN: {1: 2}\n", "key 1: found int, expected a name"),
    ],
)
def test_incomplete_and_broken_files(load, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(text=text)
    assert str(caught.value).startswith(str(load.path))


def test_empty_sections_mean_the_defaults(load) -> None:
    assert load(text=yaml.safe_dump(SMALL) + "TRAIN:\nTEST:\n") == load()


def test_config_not_found_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"mitoh2r, mitoh2r_plus, mitor2h, .*the nearest is vnc2lucchi1$"
    ):
        load_config("vnc2luchi1", [], CONFIG_DIR)
    with pytest.raises(UserError, match="no such config"):
        load_config(str(tmp_path), [], CONFIG_DIR)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_in_force_reads_back(path: Path, load) -> None:
    config = load_config(path.stem, ["TRAIN.learning_rate=3e-5"], CONFIG_DIR).config
    assert load(text=config.to_yaml()) == config


def test_adapts_unless_every_weight_is_zero(load) -> None:
    off = ["TRAIN.weight_cross=0", "TRAIN.weight_adv_spatial=0", "TRAIN.weight_adv_temporal=0"]
    assert not load(*off).TRAIN.adapts
    for n in range(3):
        assert load(*off[:n], *off[n + 1 :]).TRAIN.adapts
    assert not load("TRAIN.cross_loss_target=false", *off[1:]).TRAIN.adapts

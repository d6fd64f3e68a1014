"""Configs for tests that need no volumes."""

from utils.config.schema import Config


def config_of(width: int = 2, beyond: dict | None = None, **train) -> Config:
    """A config whose volumes are nowhere, in float32, not compiled.

    Args:
        width: of the networks.
        beyond: settings of BEYOND.
        train: settings of TRAIN.
    """
    return Config(
        NAME="test",
        MODEL={"width": width},
        TRAIN={"precision": "float32", "compile": False} | train,
        BEYOND=beyond or {},
        DATA=dict.fromkeys(("data_dir_img", "data_dir_label", "data_dir_target"), "nowhere"),
    )

"""Packages that single features want: imported where they are used, asked for where missing."""

import importlib
from types import ModuleType

from utils.errors import UserError

PACKAGES = {  # import name: what pip calls it, where that differs
    "cc3d": "connected-components-3d",
    "skimage": "scikit-image",
    "bioimageio": "bioimageio.core",
}


def wanted(name: str, purpose: str) -> ModuleType:
    """An optional package, imported.

    Args:
        name: of the module, ``skimage.measure``, say.
        purpose: what it is for, as in "to read Zarr".

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        top = name.partition(".")[0]
        package = PACKAGES.get(top, top)
        raise UserError(
            f"{package} is not installed, needed {purpose}; pip install -r requirements-extra.txt "
            f"(or {package} alone)"
        ) from None

"""Import optional packages when they are needed."""

import importlib
from types import ModuleType

from utils.errors import UserError

PACKAGES = {  # import name: name for pip, if it differs
    "skimage": "scikit-image",
    "bioimageio": "bioimageio.core",
}


def wanted(name: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Args:
        name: of the module, such as ``skimage.measure``.
        purpose: for the message, such as "to read Zarr".

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        top = name.partition(".")[0]
        package = PACKAGES.get(top, top)
        raise UserError(
            f"{package} is not installed, but needed {purpose}; pip install {package}, or "
            "pip install -r requirements-extra.txt"
        ) from None

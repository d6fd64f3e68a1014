"""Convert between the tensor names of published checkpoints and ours."""

import re

from torch import Tensor

# our module -> published module
_MODULES = {
    "section_full": "inc.conv.conv",
    "section_half": "down1.mpconv.1.conv",
    "pair_quarter": "down2.mpconv.1.conv",
    "pair_eighth": "down3.mpconv.1.conv",
    "pair_sixteenth": "down4.mpconv.1.conv",
    "seg_coarse.up_eighth": "up1",
    "seg_coarse.up_quarter": "up2",
    "seg_current.up_half": "up3_1",
    "seg_current.up_full": "up4_1",
    "seg_current.head": "out_1.conv",
    "seg_auxiliary.up_half": "up3_2",
    "seg_auxiliary.up_full": "up4_2",
    "seg_auxiliary.head": "out_2.conv",
    "residual_coarse.up_eighth": "up1_diff",
    "residual_coarse.up_quarter": "up2_diff",
    "residual_fine.up_half": "up3_diff",
    "residual_fine.up_full": "up4_diff",
    "residual_fine.head": "out_diff.conv",
}
# our layer in a module -> published layer
_LAYERS = {
    ".conv1": ".0",
    ".conv2": ".3",
    ".up": ".up",
    ".block.conv1": ".conv.conv.0",
    ".block.conv2": ".conv.conv.3",
    "_conv": ".0",
    "_logits": ".3",
}
_OUR_KEY = re.compile(
    rf"({'|'.join(map(re.escape, _MODULES))})({'|'.join(map(re.escape, _LAYERS))})\.(weight|bias)"
)


def published_key(key: str) -> str:
    """The published name of a tensor of ``Segmentor``, such as ``seg_current.head_conv.weight``.

    Raises:
        KeyError: the network has no such tensor.
    """
    match = _OUR_KEY.fullmatch(key)
    if match is None:
        raise KeyError(f"{key} is not a tensor of the segmentor")
    module, layer, kind = match.groups()
    return f"{_MODULES[module]}{_LAYERS[layer]}.{kind}"


def to_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ``Segmentor`` with the published names."""
    return {published_key(key): value for key, value in state.items()}


def from_published(state: dict[str, Tensor], our_keys: list[str]) -> dict[str, Tensor]:
    """A published state dict, also with DataParallel's ``module.``, with our names.

    Other keys are kept, so that the caller can report them.
    """
    ours = {published_key(key): key for key in our_keys}
    bare = {key.removeprefix("module."): value for key, value in state.items()}
    return {ours.get(key, key): value for key, value in bare.items()}

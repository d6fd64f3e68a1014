"""How predictions are scored, by the values of ``-mm``."""

MEASURES = {
    "map": "per section, averaged over sections",
    "map_2d": "per section, averaged over sections",
    "map_3d": "pooled over all voxels",
    "dice": "of the masks at 0.5, per section, averaged over sections",
}

"""Predict the mitochondria of a volume with a trained model, and score it if it has labels."""

import argparse

import project_root  # noqa: F401

from utils.cli import base_parser, folder_name, read_arguments
from utils.errors import run_command
from prediction.measures import MEASURES


def parse_arguments(config_name: str, measure: str) -> argparse.Namespace:
    """The command line.

    Args:
        config_name: of the config, without ``-c``.
        measure: the scores, without ``-mm``.
    """
    parser = base_parser(__doc__, config_name)
    parser.add_argument(
        "-mn",
        "--model-name",
        "--model_name",
        metavar="NAME",
        help="folder in models/ with the checkpoint (default: TEST.model_name, else NAME)",
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="in that folder (default: model.ckpt)")
    parser.add_argument(
        "-mm",
        "--mode-map",
        "--mode_map",
        metavar="MEASURE",
        choices=MEASURES,
        default=measure,
        help="map or map_2d: per section; map_3d: pooled; dice: Dice and Jaccard "
        f"(default: {measure})",
    )
    parser.add_argument("-sw", "--show", action="store_true", help="write pictures to seg_img/")
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        choices=["tiff", "hdf5", "ome-zarr"],
        help="of masks, probabilities and objects: tiff, hdf5 or ome-zarr (default: that of the "
        "volume)",
    )
    parser.add_argument(
        "--instances", action="store_true", help="find single mitochondria, and measure each"
    )
    parser.add_argument(
        "--report", action="store_true", help="write one HTML file with all results"
    )
    parser.add_argument(
        "--repredict", action="store_true", help="predict again, even if preds.hdf is finished"
    )
    parser.add_argument("--view", action="store_true", help="open the results in napari")
    return parser.parse_args()


def main(config_name: str = "vnc2lucchi1", measure: str = "map") -> None:
    """Read the arguments, load model and volume, predict, score, draw; see ``parse_arguments``."""
    args = parse_arguments(config_name, measure)
    # Imported late so that --help does not wait for torch.
    from model.checkpoint import MODEL
    from prediction.inference import Request, open_inference
    from prediction.report.report import require_report
    from prediction.report.view import require_napari
    from prediction.run import Wanted, run, view
    from utils.runtime.device import choose_device
    from utils.runtime.distributed import Group

    napari = require_napari() if args.view else None
    if args.report:
        require_report()

    loaded, workspace = read_arguments(args)
    config = loaded.config
    print(f"cfg_file: {loaded.path.name}")
    group = Group.join()
    model = folder_name("-mn", args.model_name or config.TEST.model_name or config.NAME)
    request = Request(model, args.checkpoint or MODEL, args.format)
    device = choose_device(args.device, config.TRAIN.if_cuda)
    inference = open_inference(config, workspace, request, device, group)
    wanted = Wanted(args.mode_map, args.show, args.instances, args.report, args.repredict)
    objects = run(inference, wanted)
    group.leave()
    print("Done")
    if napari and group.is_main:
        view(inference, napari.Viewer(), objects)
        napari.run()


if __name__ == "__main__":
    run_command(main)

"""What compiling the network saves on one thread: pairs in inference, iterations in training.

``python -m benchmarks.compilation`` prints a table in Markdown: CPU time of plain PyTorch code, of
this project's code, of the same compiled, and what compiling saves for each pixel of a pair and
channel at full resolution (``prediction.compilation.SAVED``, ``training.compilation.SAVED``). Each
row compiles, which takes one to two minutes.
"""

import time
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.plain import plain_prediction
from model.segmentor import Segmentor
from prediction.predictor import NetworkPredictor
from training.setup import build_learning
from utils.config.schema import Config
from utils.runtime.device import PRECISIONS, keep_freed_memory

CPU, ROUNDS = torch.device("cpu"), 5
PAIRS = [(560, 16, "float32"), (560, 16, "bfloat16"), (288, 64, "float32"), (288, 64, "bfloat16")]
ITERATIONS = [
    (128, 2, 8, "float32"),
    (192, 2, 16, "float32"),
    (192, 2, 16, "bfloat16"),
    (256, 1, 64, "float32"),
]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| on one thread | plain | this project | compiled | saved |")
    print("|---|---|---|---|---|")
    for side, width, precision in PAIRS:
        values = width * side**2
        print_row(f"a pair of {side} x {side}, width {width}, {precision}", values,
                  *pair(side, width, precision))  # fmt: skip
    for crop, batch, width, precision in ITERATIONS:
        values = width * crop**2 * batch * 2
        name = f"a training iteration, crop {crop}, batch {batch}, width {width}, {precision}"
        print_row(name, values, None, *iteration(crop, batch, width, precision))


def print_row(
    name: str, values: int, plain: Callable | None, own: Callable, compiled: Callable
) -> None:
    """Time the functions in turn; ``values`` are pixels of pairs times channels."""
    torch.compiler.reset()  # otherwise the compiler takes the sizes of a later row for variable
    functions = [function for function in (plain, own, compiled) if function]
    for function in functions:
        function(), function()
    times = [[cpu_time(function) for function in functions] for _ in range(ROUNDS)]
    *first, before, after = (median(column) for column in zip(*times, strict=True))
    cells = [f"{1e3 * first[0]:,.0f} ms" if first else ""]
    cells += [f"{1e3 * seconds:,.0f} ms" for seconds in (before, after)]
    print(
        f"| {name} | {' | '.join(cells)} | {1e9 * (before - after) / values:.1f} ns |", flush=True
    )


def cpu_time(function: Callable[[], object]) -> float:
    """CPU time of one call, which other work on the machine disturbs little; seconds."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def pair(side: int, width: int, precision: str) -> tuple[Callable | None, Callable, Callable]:
    """Prediction of a pair by plain code (in float32), ours, and ours compiled."""
    torch.manual_seed(0)
    section = torch.rand(1, side, side)

    def plain() -> torch.Tensor:
        return plain_prediction(segmentor, section.repeat(2, 1, 1), 1)

    segmentor = Segmentor(width).eval()

    def predict(compiles: bool) -> Callable[[], torch.Tensor]:
        network = NetworkPredictor(
            Segmentor(width).eval().to(memory_format=torch.channels_last),
            CPU,
            PRECISIONS[precision],
        )
        if compiles:
            network.compile_for([(1, side, side)])
        features = network.encode(section)
        # as in a volume, where a section is encoded once for its two pairs
        return lambda: network.decode(features, network.encode(section))

    return plain if precision == "float32" else None, predict(False), predict(True)


def iteration(crop: int, batch: int, width: int, precision: str) -> tuple[Callable, Callable]:
    """An iteration of the published step, as it is and compiled."""
    images = torch.rand(batch, 2, crop, crop)

    def step(compiles: bool) -> Callable[[], object]:
        torch.manual_seed(0)
        paths = dict.fromkeys(("data_dir_img", "data_dir_label", "data_dir_target"), "nowhere")
        train = {"compile": compiles, "precision": precision}
        config = Config(NAME="benchmark", MODEL={"width": width}, TRAIN=train, DATA=paths)
        adapt = build_learning(config, CPU).steps.adapt
        masks = (images > 0.5).long()
        return lambda: adapt(1, images, masks, images)

    return step(False), step(True)


if __name__ == "__main__":
    main()

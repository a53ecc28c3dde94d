"""A network is cut before what pwconv cannot compute; ONNX Runtime runs the rest.

    python examples/cut_head.py

The network reads a line of text. Its trunk is convolutions; its head has attention, which pwconv
refuses. It needs ``pip install 'pwconv[onnx]' onnxruntime scikit-image pillow``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import skimage.data
from onnx.utils import Extractor
from PIL import Image

import pwconv
import text_models

# One of the values that the error names: the trunk's output, from which the others are computed.
CUT = ["p2o.AveragePool.1"]


def main() -> None:
    """Show the error, cut, run both parts, print the text."""
    path = text_models.fetch(text_models.READER)
    x = line_of_text()
    try:
        pwconv.from_onnx(path, shapes={"x": x.shape})
    except pwconv.UnsupportedError as error:
        print(error)  # which nodes, and at which values to cut
    y = run_both(path, {"x": x}, CUT)
    characters = ["", *metadata(path)["character"].splitlines(), " "]
    best = y[0].argmax(-1)
    # A character is said once however long it lasts; the first is between two.
    changed = np.flatnonzero(np.diff(best, prepend=0))
    print("the line reads:", "".join(characters[best[i]] for i in changed))


def run_both(path: Path, inputs: dict[str, Any], cut: Sequence[str]) -> Any:
    """Run a file up to some values on the device and from there in ONNX Runtime; return y."""
    trunk = pwconv.from_onnx(path, shapes={n: a.shape for n, a in inputs.items()}, outputs=cut)
    features = trunk.run(inputs)
    model = onnx.load(path)
    # The extractor wants to know the types of the values at which it cuts.
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in cut
    )
    head = Extractor(model).extract_model(list(cut), [each.name for each in model.graph.output])
    session = onnxruntime.InferenceSession(head.SerializeToString())
    return session.run(None, features)[0]


def metadata(path: Path) -> dict[str, str]:
    """Return what a file says of itself: the characters that it reads, one a line."""
    return {each.key: each.value for each in onnx.load(path).metadata_props}


def line_of_text() -> Any:
    """Return a line of a photographed page, [1, 3, 48, W] from -1 to 1."""
    line = skimage.data.page()[8:38, 5:300]  # type: ignore[no-untyped-call]
    scaled = Image.fromarray(line).convert("RGB").resize((472, 48))
    pixels = np.asarray(scaled, np.float32)[..., ::-1] / 127.5 - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


if __name__ == "__main__":
    main()

"""build_tools/ on the path: the page that it writes has the count of ONNX's node tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "build_tools"))

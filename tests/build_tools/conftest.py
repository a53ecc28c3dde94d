"""build_tools/ on the path, as the build hook puts it there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "build_tools"))

"""The enumeration next to these tests is importable in every import mode, and hypothesis runs the same everywhere."""

import sys
from pathlib import Path

from hypothesis import settings

# A shared processor makes single examples slow, and a run that fails must fail again when repeated.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
sys.path.insert(0, str(Path(__file__).parent))

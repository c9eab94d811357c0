"""Where things lie: the repository, and the data that may stand beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
"""Real photos and pretrained weights; tests that want them are skipped where they are not."""

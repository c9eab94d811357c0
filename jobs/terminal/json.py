"""JSON on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

from masklake.jobs.terminal.text import printable_json


def print_json(value: Any) -> None:
    """`value` as JSON on standard output, with nothing that a terminal would act on."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    sys.stdout.write("\n".join(printable_json(line) for line in text.split("\n")) + "\n")

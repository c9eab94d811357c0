"""Did you mean …?"""

from __future__ import annotations

import pytest
from masklake.jobs.terminal.suggestions import did_you_mean


@pytest.mark.parametrize(
    ("word", "suggested"),
    [("segmnt", "segment"), ("TRAIN", "train"), ("lables", "labels"), ("xyz", None), ("", None)],
)
def test_what_is_near(word: str, suggested: str | None) -> None:
    suggestion = did_you_mean(word, ["segment", "train", "labels"])
    assert suggestion == (f"; did you mean {suggested!r}?" if suggested else "")

"""How much a run's source may hand out before predictors have taken it."""

from __future__ import annotations

_PATIENCE_S, _MOST_PATIENCE_S = 120.0, 900.0
_GAPS = 5.0


class Ahead:
    """The load (`pipeline.segment.source.load`) that was handed out and is not yet inferred: at most about `most`.

    The ledger that counts what is inferred may be killed together with the source; then the source hands out all from the beginning, and
    finds less counted than was done. So where nothing is inferred for much longer than ever before, nothing is taken to be on its way.
    """

    def __init__(self, most: int) -> None:
        self.handed_out = 0
        self._most = most
        self._inferred = 0
        self._changed: float | None = None
        self._longest = 0.0

    def hand_out(self, load: int) -> None:
        """So much more is on its way."""
        self.handed_out += load

    def has_room(self, inferred: int, moment: float) -> bool:
        """Whether more may be handed out, now that the ledger has counted `inferred`. moment: seconds of a monotonic clock."""
        waited = 0.0 if self._changed is None else moment - self._changed
        patience = min(_MOST_PATIENCE_S, max(_PATIENCE_S, _GAPS * self._longest))
        lost_count = inferred == self._inferred and waited > patience
        if lost_count:
            self.handed_out = inferred
        if self._changed is None or inferred != self._inferred or lost_count:
            self._longest = max(self._longest, waited)
            self._inferred, self._changed = inferred, moment
        return self.handed_out - inferred < self._most

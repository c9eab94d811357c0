"""`--precision int8`: the ranges of a model's values, measured once a lake and model on images of the lake's own.

    LAKE/calibrations/<fingerprint>.json

All runs of the model in the lake take the same, so that their rows are the same; a run's record names them by a digest, and a run
goes on with these alone.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

from masklake.pipeline.errors import UserError
from masklake.pipeline.storage.explain import explaining
from masklake.pipeline.storage.store import Storage, join, normalise

if TYPE_CHECKING:
    from masklake.jobs.models.resolve import Resolved
    from masklake.jobs.segment.options import SegmentOptions
    from masklake.model.engine.int8 import Calibration
    from masklake.pipeline.lake.run_record import RunRecord

KEY = "calibration"
"""In a record's options."""
_IMAGES, _OF_FIRST = 16, 256


def of_record(record: RunRecord, storage: Storage, model: Resolved) -> Calibration | None:
    """The calibration of a run in 8 bits; None for others. Raises UserError where it is not there any more, or another."""
    from masklake.model.engine.int8 import Calibration

    if record.options.get(KEY) is None:
        return None
    uri = _uri(record.lake, model)
    with explaining(uri, "read the calibration"):
        text = storage.read(uri)
    if _digest(text) != record.options[KEY]:
        raise UserError(
            f"run {record.run}: was begun with another calibration than {uri} is now, which would make other rows; put the first one "
            "back, or start a new run"
        )
    return Calibration.from_json(text, uri)


def of_lake(lake: str, storage: Storage, model: Resolved) -> Calibration:
    """The lake's calibration for the model. Raises UserError where no run has made one yet."""
    from masklake.model.engine.int8 import Calibration

    uri = _uri(lake, model)
    with explaining(uri, "read the calibration"):
        try:
            return Calibration.from_json(storage.read(uri), uri)
        except FileNotFoundError:
            raise UserError(
                f"{uri}: is not there; the first `masklake segment --precision int8` with this model makes it"
            ) from None


def require(options: SegmentOptions, lake: str, model: Resolved) -> str | None:
    """The digest of the lake's calibration for the model. Where there is none it is made, by some of the first images of the
    source, and kept; before a dry run the digest is None then. Raises UserError or ModelError where no image can be used.
    """
    uri, storage = _uri(lake, model), options.storage.open()
    with explaining(uri, "read the calibration"):
        try:
            return _digest(storage.read(uri))
        except FileNotFoundError:
            if options.dry_run:
                return None
    text = _measured(options, storage, model).encode()
    with explaining(uri, "write the calibration"):
        # Of two first runs at once the later one takes what the earlier has made.
        return _digest(text if storage.put_new(uri, text) else storage.read(uri))


def _uri(lake: str, model: Resolved) -> str:
    return join(lake, "calibrations", f"{model.fingerprint}.json")


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]


def _measured(options: SegmentOptions, storage: Storage, model: Resolved) -> str:
    from masklake.model import decode as decoder
    from masklake.model import presets
    from masklake.model.calibrate import calibrate
    from masklake.pipeline.segment.listing import gone_on
    from masklake.pipeline.storage.objects import Fetched

    source = normalise(options.source)
    with explaining(source, "list the source"):
        listing = gone_on(source, storage, options.every_object, "", None)
        first = [info.uri for info in itertools.islice(listing, _OF_FIRST)]
    decoding = options.rows.decoding(model.spec.preprocessing)
    pixels = []
    for fetched in storage.get_many(
        first[:: max(1, len(first) // _IMAGES)][:_IMAGES], options.rows.max_bytes
    ):
        if isinstance(fetched, Fetched):
            try:
                pixels.append(decoder.decode(fetched.data, decoding)[0])
            except decoder.UndecodableError:
                continue  # it will be a row with its reason
    if not pixels:
        raise UserError(
            f"{source}: none of {_IMAGES} images can be read, to calibrate --precision int8 by; see `masklake segment` with another precision"
        )
    loaded = presets.load_model(model.source.local(), weights_dir=model.source.weights_dir)
    return calibrate(loaded, pixels).to_json()

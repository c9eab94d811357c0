"""Peer: FiftyOne's `apply_model`. `python -m tests.bench.peers.fiftyone_apply IMAGES OUT`

Files that cannot be read are left without a prediction (`skip_failures`, its default). Its answers live in its database,
under OUT here; they are persistent, so that a second start finds what the first has saved.
"""

import os
import sys
from pathlib import Path

folder, out = sys.argv[1:]
os.environ["FIFTYONE_DATABASE_DIR"] = str(Path(out, "database").absolute())  # read at import
os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"

import fiftyone as fo  # noqa: E402  # the variables above come first
from fiftyone import ViewField  # noqa: E402
from fiftyone.utils.torch import TorchImageModel, TorchImageModelConfig  # noqa: E402

from tests.bench.peers.network import BATCH, SCORE, network  # noqa: E402

CLASSES = [f"class {index}" for index in range(100)]


def main() -> None:
    if fo.dataset_exists("photos"):
        dataset = fo.load_dataset("photos")
    else:
        dataset = fo.Dataset("photos", persistent=True)
        dataset.add_samples(
            [fo.Sample(filepath=str(file)) for file in sorted(Path(folder).absolute().iterdir())]
        )
    config = TorchImageModelConfig(
        {
            "model": network(),
            # transforms are left to FiftyOne, as its model zoo does for Mask R-CNN
            "output_processor_cls": "fiftyone.utils.torch.InstanceSegmenterOutputProcessor",
            "classes": CLASSES,
        }
    )
    todo = (
        dataset.match(~ViewField("predictions").exists())
        if dataset.has_sample_field("predictions")
        else dataset
    )
    todo.apply_model(
        TorchImageModel(config),
        label_field="predictions",
        confidence_thresh=SCORE,
        batch_size=BATCH,
        num_workers=2,
    )
    rows = dataset.exists("predictions").values("filepath")
    Path(out, "rows.txt").write_text("\n".join(Path(path).name for path in rows))


if __name__ == "__main__":
    main()

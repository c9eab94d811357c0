"""A run whose metrics are to be scraped: the demo model over scenes, in a process of its own with a Ray of its own.

    python -m tests.helpers.infra.metrics_run SCENES LAKE

Prints the port of Prometheus' metrics and the folder of the workers' logs in a line, then segments, prints "done", and keeps Ray until its input ends. What
needs a GPU or a training is told with made-up values, through the code that tells it.
"""

from __future__ import annotations

import os
import sys
import time

from masklake.jobs.cluster.cluster import ray_cluster
from masklake.pipeline.segment.metrics import GpuMemory
from masklake.pipeline.train.metrics import TrainingMetrics

REPORT_MS = 1000


def main() -> int:
    # Ray's processes read it when they start; 10 s would be the default.
    os.environ |= {"RAY_metrics_report_interval_ms": str(REPORT_MS)}
    from masklake.jobs.segment import command as segment
    from masklake.jobs.segment.options import SegmentOptions
    from masklake.pipeline.segment.planned import Planned
    from rich.console import Console

    source, lake = sys.argv[1:]
    options = SegmentOptions(source=source, lake=lake, model="demo", batch_size=4, commit_images=16)
    with ray_cluster(None, 0) as cluster:
        import ray

        logs = ray._private.worker._global_node.get_logs_dir_path()
        print(ray.nodes()[0]["MetricsExportPort"], logs, flush=True)
        job, model = segment.new_job(options)
        teller = ray.remote(num_cpus=0)(_Teller).remote(job.record.run, f"demo@{model.fingerprint}")
        teller.tell.remote()
        code = segment.execute(options, job, Planned(job), model, cluster, Console(file=sys.stderr))
        print("done", code, flush=True)
        sys.stdin.read()
    return code


class _Teller:
    """Tells what a predictor on a GPU and the first worker of a training tell, over and over."""

    def __init__(self, run: str, model: str) -> None:
        self._gpu = GpuMemory(run, model, read=lambda: 2**30)
        self._training = TrainingMetrics(run)

    def tell(self) -> None:
        for step in range(1000):
            self._gpu.observe()
            losses = {"loss": 1.0, "loss_mask": 0.5, "rate": 0.01}
            self._training.update(step, 8 * step, losses)
            if not step:
                self._training.ended("diverged")
            time.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main())

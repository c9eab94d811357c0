"""One thread: results do not hang on the machine, and tests that run side by side do not fight."""

import torch

torch.set_num_threads(1)

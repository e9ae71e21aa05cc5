"""One thread, so that figures and timings mean the same everywhere.

Nothing here may import diffsurrogate at the top: shapes are checked only in modules imported after
pytest's start.
"""

import torch

torch.set_num_threads(1)

"""``python -m conformance MODEL_TYPE...`` or ``--all``."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from conformance.report import main

if __name__ == "__main__":
    sys.exit(main())

"""What every test session shares. Options and plugins only: fixtures live beside the tests that use them."""

from __future__ import annotations

import os

# Read by torch and tokenizers when they are first imported; more threads than this only fight each other here.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest_plugins = ["pytester", "systems.plugin"]

"""What every test gets: a cache and a state directory of its own choosing, and no colour."""

from __future__ import annotations

import os

os.environ.setdefault("NO_COLOR", "1")

"""One measurement in a process of its own: ``python -m tools.speed TASK JSON``; what is found is printed as JSON."""

from __future__ import annotations

import json
import sys

from tools.speed.measure import conversion, memory, shares, timing
from tools.speed.peers import peer

TASKS = {f.__name__: f for f in (conversion, memory, timing, shares, peer)}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](**json.loads(sys.argv[2]))))

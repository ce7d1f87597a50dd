"""Our TensorBoard event files, read by TensorBoard's own reader, beside metrics.jsonl.

usage: python scripts/check/tensorboard_events.py RUN    a run's folder made with `tensorboard=true`
needs: tensorboard==2.20.0

Every scalar of every step must be there once, with the value of metrics.jsonl in f32, also where the
run was interrupted and some steps were made twice.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run = Path(sys.argv[1])
expected = {}
for line in (run / "metrics.jsonl").read_text().splitlines():
    metrics = json.loads(line)
    for name, value in metrics.items():
        if "/" in name:
            value = math.nan if value is None else value
            expected.setdefault(name, []).append((metrics["step"], np.float32(value)))

events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
events.Reload()
tags = set(events.Tags()["scalars"])
assert tags == set(expected), tags ^ set(expected)
for name, points in expected.items():
    found = [(event.step, np.float32(event.value)) for event in events.Scalars(name)]
    assert len(found) == len(points), (name, len(found), len(points))
    for (step, value), (other_step, other) in zip(points, found):
        same = value == other or (np.isnan(value) and np.isnan(other))
        assert step == other_step and same, (name, step, value, other_step, other)
print(f"{len(tags)} scalars, {max(len(p) for p in expected.values())} steps: as in metrics.jsonl")

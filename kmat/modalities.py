"""The two ends of a task: its images are learned from at the high one, and only tested on at the low one."""

HIGH, LOW = "high", "low"
MODALITIES = (HIGH, LOW)

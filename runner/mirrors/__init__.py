"""The committed History of jobs, mirrored into trackers of experiments."""

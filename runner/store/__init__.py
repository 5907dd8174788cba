"""Bytes under keys, and logs of records made of them; knows nothing of jobs."""

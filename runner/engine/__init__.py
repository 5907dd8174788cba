"""Workers: claiming jobs, running their stages, releasing them in time."""

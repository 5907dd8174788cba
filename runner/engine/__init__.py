"""Workers: claiming jobs, running their stages, letting go in time."""

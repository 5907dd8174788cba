"""Fire drills: a training undisturbed and killed, compared bit for bit."""

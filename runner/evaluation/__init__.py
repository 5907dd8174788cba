"""How good a trained network is: measured once, by passes that a restart repeats exactly."""

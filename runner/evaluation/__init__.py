"""How good a trained network is: measured once, exactly repeatable, and shown on a page."""

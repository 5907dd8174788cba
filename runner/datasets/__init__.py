"""The images: one file each, whose `load` returns a checked Dataset."""

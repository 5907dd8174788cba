"""Trainings as functions: a file here is a program, as in the folder of one's own code."""

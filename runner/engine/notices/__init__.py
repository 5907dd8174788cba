"""Notices that this machine is about to go: one file for each kind of machine that gives them."""

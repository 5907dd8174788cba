"""Long runs on real machines; each is a command, none is part of the tests."""

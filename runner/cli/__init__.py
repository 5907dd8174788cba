"""The command line: parses, renders, and imports late."""

"""Pages and pictures of what jobs did, from plain records."""

"""What many samples of a model reach, and what a second setting adds to it."""

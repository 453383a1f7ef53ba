"""A page to play with: a prompt answered plain and steered, side by side, as it comes."""

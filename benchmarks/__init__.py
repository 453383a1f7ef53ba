"""Time unlatch beside the bare model and other libraries: ratios, side by side in one process."""

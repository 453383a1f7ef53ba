"""``make interop``: other programs apply our vector, and say the same as we do; never run by the tests."""

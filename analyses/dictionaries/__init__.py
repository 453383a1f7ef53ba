"""Sparse dictionaries of a model: trained, judged, looked into, and switched on for one step."""

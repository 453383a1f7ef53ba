"""Layouts of dictionaries on disk, one file each: SAELens, Gemma Scope, sparsify."""

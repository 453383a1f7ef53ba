"""Sparse dictionaries: what they share, one file per architecture, and edits of single latents."""

from saes.dictionary import Dictionary as Dictionary
from saes.edits import ClampLatents as ClampLatents
from saes.edits import ScaleLatents as ScaleLatents
from saes.shards import ActivationShards as ActivationShards
from saes.shards import write_shards as write_shards
from saes.topk import TopKSAE as TopKSAE

"""Sparse dictionaries: read and written, one file per architecture; edits of latents, kinds of sentences."""

from saes.dictionary import Dictionary as Dictionary
from saes.dictionary import Origin as Origin
from saes.edits import ClampLatents as ClampLatents
from saes.edits import ScaleLatents as ScaleLatents
from saes.edits import ShiftPreactivations as ShiftPreactivations
from saes.formats.saelens import save_dictionary as save_dictionary
from saes.gated import GatedSAE as GatedSAE
from saes.hub import from_pretrained as from_pretrained
from saes.hub import push_to_hub as push_to_hub
from saes.jumprelu import JumpReLUSAE as JumpReLUSAE
from saes.load import BUNDLED as BUNDLED
from saes.load import load_dictionary as load_dictionary
from saes.load import load_release as load_release
from saes.load import load_transcoder as load_transcoder
from saes.shards import ActivationShards as ActivationShards
from saes.shards import write_shards as write_shards
from saes.standard import StandardSAE as StandardSAE
from saes.taxonomy import Taxonomy as Taxonomy
from saes.taxonomy import load_taxonomy as load_taxonomy
from saes.taxonomy import save_taxonomy as save_taxonomy
from saes.taxonomy import sentence_means as sentence_means
from saes.taxonomy import train_taxonomy as train_taxonomy
from saes.topk import TopKSAE as TopKSAE
from saes.transcoder import Transcoder as Transcoder

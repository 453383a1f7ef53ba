"""Touch a running model: load it, name its sites, record, edit, generate."""

from hooks.capture import capture as capture
from hooks.edits import Add as Add
from hooks.edits import Clamp as Clamp
from hooks.edits import Patch as Patch
from hooks.edits import ProjectOut as ProjectOut
from hooks.generate import generate as generate
from hooks.inject import inject as inject
from hooks.language_model import LanguageModel as LanguageModel
from hooks.load import adopt as adopt
from hooks.load import load as load
from hooks.sites import Site as Site
from hooks.stream import stream as stream
from hooks.sweep import sweep as sweep
from hooks.verify import verify as verify

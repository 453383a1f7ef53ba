"""The errors this toolkit raises on purpose, each also the standard class it replaces."""


class UnlatchError(Exception):
    """Base of every error raised on purpose. The command line prints it and exits 2."""


class InputError(UnlatchError, ValueError):
    """Something that was passed in cannot be used; the text says what could."""


class SiteNotFoundError(UnlatchError, LookupError):
    """The model has no such activation site."""


class EmptySelectionError(UnlatchError, ValueError):
    """A position selection matched no token."""


class ModelNotFoundError(UnlatchError, LookupError):
    """No model by that name or at that path."""


class ModelRefusedError(UnlatchError, RuntimeError):
    """The model loads but its sites do not mean what they should; nothing may be built on it."""


class VectorError(UnlatchError, ValueError):
    """A vector is degenerate, damaged, or was made for another model."""


class ShardError(UnlatchError, OSError):
    """A shard of activations is missing or damaged, or its folder holds something else."""


class ReceiptError(UnlatchError, AssertionError):
    """What was written into the model is not what was expected."""


class RunError(UnlatchError, OSError):
    """A run folder cannot be created, continued or written."""

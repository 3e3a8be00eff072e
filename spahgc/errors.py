"""Every error a user can meet.

The tree::

    SpahgcError
    ├── SlideFormatError      a slide folder is not what its reader expects     (also ValueError)
    ├── ImageError            an image cannot be read or does not fit           (also ValueError)
    ├── EncoderError          an encoder is unknown or its weights are missing  (also LookupError)
    ├── StoreError            a store is missing, damaged or not one            (also OSError)
    │   ├── FormatVersionError    it was written by a newer spahgc
    │   ├── DamagedStoreError     its bytes are not the committed ones
    │   └── CommitConflictError   somebody else changed the same slide first
    ├── SlideExistsError      the store holds another slide of that name        (also ValueError)
    ├── MissingError          an earlier step has not been run                  (also LookupError)
    ├── MismatchError         two stored things do not fit together             (also ValueError)
    ├── ProtocolError         the split asked for cannot be judged honestly     (also ValueError)
    ├── InstallationError     a library is missing, or installed twice          (also ImportError)
    └── WorkerError           a cluster's workers died, or nobody answers       (also RuntimeError)
"""


class SpahgcError(Exception):
    """Base of every error that spahgc raises on purpose; its text is one clear line."""


class SlideFormatError(SpahgcError, ValueError):
    """A slide folder is not what its reader expects."""


class ImageError(SpahgcError, ValueError):
    """An image cannot be read, or does not fit the spots laid over it."""


class EncoderError(SpahgcError, LookupError):
    """An encoder is unknown, or its weights cannot be had here."""


class StoreError(SpahgcError, OSError):
    """A store is missing, damaged, or not a store at all."""


class FormatVersionError(StoreError):
    """A store was written by a newer spahgc."""


class DamagedStoreError(StoreError):
    """The bytes in a store are not those that were committed."""


class CommitConflictError(StoreError):
    """Somebody else changed the same slide first."""


class SlideExistsError(SpahgcError, ValueError):
    """The store already holds another slide of that name."""


class MissingError(SpahgcError, LookupError):
    """Something an earlier step makes is not there; the text names the step."""


class MismatchError(SpahgcError, ValueError):
    """Two stored things do not fit together."""


class ProtocolError(SpahgcError, ValueError):
    """The slides at hand cannot be split in a way that judges a model honestly."""


class InstallationError(SpahgcError, ImportError):
    """A library that spahgc needs is missing, or installed in two versions at once."""


class WorkerError(SpahgcError, RuntimeError):
    """The workers of a cluster died over a piece of work, or its scheduler does not answer."""

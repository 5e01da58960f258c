"""Errors about files on disk; the message is one sentence that names the file."""


class DataError(ValueError):
    """A dataset on disk is missing, incomplete or damaged.

    PyTorch rebuilds the exception of a loading process from its printed traceback. The part before the sentence is cut
    off here, so that the message is the same for any ``num_workers``.

    Example:
        >>> printed = "Caught DataError in DataLoader worker process 0. [...] "
        >>> str(DataError(printed + "afr_clip.data.errors.DataError: x.png is empty."))
        'x.png is empty.'
    """

    def __init__(self, sentence: str) -> None:
        printed_name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(sentence.rpartition(printed_name)[2].rstrip("\n"))


class MissingDataError(DataError, FileNotFoundError):
    """A file or folder of a dataset is missing."""


class EmptySplitError(DataError):
    """A split of a dataset has no images."""

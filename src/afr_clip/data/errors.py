"""What goes wrong with files on disk, said in one sentence that names the file."""


class DataError(ValueError):
    """A dataset on disk is not as it must be.

    PyTorch rebuilds an exception of a loader's worker from its printed traceback. What stands before the sentence is
    cut off again here, so the user reads the same words whatever ``num_workers`` is.

    Args:
        sentence: What must hold, what came, what to do.

    Example:
        >>> printed = "Caught DataError in DataLoader worker process 0. [...] "
        >>> str(DataError(printed + "afr_clip.data.errors.DataError: x.png is empty."))
        'x.png is empty.'
    """

    def __init__(self, sentence: str) -> None:
        printed_name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(sentence.rpartition(printed_name)[2].rstrip("\n"))


class MissingDataError(DataError, FileNotFoundError):
    """A file or folder of a dataset is not where it must be."""

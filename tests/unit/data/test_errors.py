import pickle

import pytest
from torch._utils import ExceptionWrapper

from afr_clip.data.errors import DataError, MissingDataError


@pytest.mark.parametrize("kind", [DataError, MissingDataError])
def test_a_sentence_survives_being_carried_between_processes(kind):
    try:
        try:
            raise OSError("disk")
        except OSError as error:
            raise kind("a b.png: must be intact. Copy it again.") from error
    except kind:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(kind) as caught:
        pickle.loads(pickle.dumps(wrapped)).reraise()
    assert str(caught.value) == "a b.png: must be intact. Copy it again."


def test_a_sentence_is_kept_as_it_is():
    assert str(DataError("x.png: no: never.")) == "x.png: no: never."
    assert str(pickle.loads(pickle.dumps(MissingDataError("gone")))) == "gone"


def test_a_missing_file_is_caught_as_what_it_is():
    for kind in (DataError, ValueError, FileNotFoundError):
        with pytest.raises(kind, match="gone"):
            raise MissingDataError("gone")

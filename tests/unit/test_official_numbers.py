import pytest
from safetensors.torch import load_file

from helpers.official_differences import METHODS, assert_only_rounding
from helpers.repeatable import ARCHITECTURES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("towers")


@pytest.mark.parametrize("method", METHODS)
def test_numbers_are_those_of_the_authors_programs(method, folder):
    """``tests/fixtures/official/README.md`` says how their programs made these files."""
    record = load_file(ARCHITECTURES / f"{method}.safetensors")
    assert_only_rounding(METHODS[method](record, folder))

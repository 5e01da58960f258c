import pytest

from afr_clip.models.afr_clip.stages import prompted_blocks


@pytest.mark.parametrize(
    ("stages", "blocks"),
    [([1], range(2, 7)), ([1, 2], range(2, 13)), ([3], range(13, 19)), ([1, 2, 3, 4], range(2, 25))],
)
def test_stages_of_the_papers_tower(stages, blocks):
    assert prompted_blocks(stages, (6, 12, 18, 24)) == set(blocks)


def test_in_a_tower_of_four_blocks_the_second_stands_in_for_stage_one():
    assert prompted_blocks([1], (1, 2, 3, 4)) == {2}


def test_a_stage_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"must lie in 1\.\.2 .* got \[3\]"):
        prompted_blocks([3], (6, 12))

import pytest
from PIL import Image

from afr_clip.reports.compare.ablation.record import read_sweep
from afr_clip.reports.compare.ablation.search_figures import (
    Axis,
    best_so_far,
    draw_best,
    draw_parallel,
    parameter_axes,
    values_of,
)
from helpers.sweeps import write_search


def width_of(path):
    with Image.open(path) as picture:
        return picture.width


def search_of(tmp_path, values, **content):
    write_search(tmp_path, values, **content)
    return read_sweep(tmp_path).search


def test_a_logarithmic_axis_places_equal_ratios_equally_far_apart():
    values = [1e-4, 1e-3, 1e-2]
    assert [Axis("lr", values, True).place(value) for value in values] == pytest.approx([0, 0.5, 1])
    assert Axis("lr", values).place(1e-3) == pytest.approx(9e-4 / 9.9e-3)
    assert Axis("lr", values, True).ticks[1] == (0.5, "0.001")


def test_an_axis_without_numbers_is_evenly_spaced_and_a_single_value_in_the_middle():
    axis = Axis("style", ["winclip", "single", None, True])
    assert sorted(axis.place(value) for value in axis.values) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert Axis("x", [3, 3]).place(3) == 0.5
    assert [said for _, said in Axis("x", [True, False]).ticks] == ["False", "True"]


def test_a_logarithmic_range_that_holds_zero_is_drawn_evenly():
    assert Axis("x", [0.0, 1.0, 4.0], True).place(1.0) == pytest.approx(0.25)


def test_the_best_so_far_follows_the_direction(tmp_path):
    search = search_of(tmp_path, [0.3, None, 0.2, 0.5])
    assert values_of(search.finished) == [0.3, 0.2, 0.5]
    assert best_so_far(search, search.finished) == [0.3, 0.3, 0.5]
    search = search_of(tmp_path, [0.3, 0.2, 0.5], objective={"direction": "minimize"})
    assert best_so_far(search, search.finished) == [0.3, 0.2, 0.2]


def test_every_parameter_has_an_axis_and_known_logarithms_are_kept(tmp_path):
    search = search_of(tmp_path, [0.1, 0.2], space={"optimizer.lr": {"log": True}})
    axes = parameter_axes(search)
    assert [name for name, axis in axes.items() if axis.is_logarithmic] == ["optimizer.lr"]
    assert axes["module.network.prompts.style"].label == "prompts.\nstyle"


@pytest.mark.parametrize("values", [[0.4], [0.4, None, 0.6], [0.5, 0.5]])
def test_both_pictures_are_drawn(tmp_path, values):
    search = search_of(tmp_path, values)
    draw_parallel(tmp_path / "a.png", search)
    draw_best(tmp_path / "b.png", search)
    assert all(width_of(tmp_path / name) > 700 for name in ("a.png", "b.png"))

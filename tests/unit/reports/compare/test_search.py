import pytest
from PIL import Image

from afr_clip.reports.compare.search import (
    Axis,
    best_so_far,
    draw_best,
    draw_parallel,
    parameter_axes,
    search_grid,
    search_note,
    search_records,
)
from afr_clip.reports.compare.sweeps import read_sweep
from helpers.sweeps import write_search


def width_of(path):
    with Image.open(path) as picture:
        return picture.width


def search_of(tmp_path, values, **content):
    write_search(tmp_path, values, **content)
    return read_sweep(tmp_path).search


def test_the_best_trial_stands_out_and_one_without_a_value_has_none(tmp_path):
    grid = search_grid(search_of(tmp_path, [0.25, None, 0.5]))
    assert [heading.label for heading in grid.headings[:4]] == ["Trial", "State", "Value", "optimizer.lr"]
    assert [(row[2].shown, row[2].is_strong) for row in grid.body] == [
        ("0.2500", False),
        ("-", False),
        ("0.5000", True),
    ]


def test_only_parameters_that_are_numbers_are_sorted_as_such(tmp_path):
    headings = search_grid(search_of(tmp_path, [0.25, 0.5])).headings
    assert [heading.is_text for heading in headings[3:]] == [False, False, True]


def test_the_note_names_aim_and_best(tmp_path):
    said = search_note(search_of(tmp_path, [0.25, None, 0.5]))
    assert said.startswith("Objective: metric image_auroc; direction maximize. Best of 2 trials with a value: trial 2")
    assert "module.network.mpfa_window=5" in said
    write_search(tmp_path, [0.5], objective={"metric": "pixel_ap", "targets": ["mpdd", "btad"]})
    assert "targets mpdd, btad" in search_note(read_sweep(tmp_path).search)
    assert search_note(search_of(tmp_path, [None])).endswith("No trial has a value yet.")


def test_records_have_all_digits(tmp_path):
    search = search_of(tmp_path, [0.1234567890123])
    assert search_records(search).to_dict("records")[0] == {
        "number": 0,
        "state": "COMPLETE",
        "value": 0.1234567890123,
        "folder": "trials/0",
        "optimizer.lr": 1e-4,
        "module.network.mpfa_window": 1,
        "module.network.prompts.style": "single",
    }


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
    assert best_so_far(search) == [0.3, 0.3, 0.5]
    search = search_of(tmp_path, [0.3, 0.2, 0.5], objective={"direction": "minimize"})
    assert best_so_far(search) == [0.3, 0.2, 0.2]


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

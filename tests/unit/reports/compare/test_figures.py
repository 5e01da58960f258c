import numpy as np
import pytest
from PIL import Image

from afr_clip.reports.compare.figures import draw_bars, draw_losses, read_curves
from helpers.results import source
from helpers.sweeps import cell, config_with, table_of, write_cell, write_loss, write_record

PAPER = (196, 66, 15)


def drawn_table(sweep, title="table3"):
    for seed in (0, 1):
        folder = write_cell(sweep / f"cells/{title}_full_{seed}", [0.8, 0.9], seed=seed)
        write_loss(folder, [2.0, 1.5 + seed, 1.0])
    write_cell(sweep / "cells/b", [0.6, 0.8], config=config_with(module__network__mpfa_window=1))
    cells = [cell("table3_full", 0), cell("table3_full", 1), cell("table3_cmfr", 0, folder="cells/b")]
    write_record(sweep, [*cells, cell("table3_cmfr", 1, "failed", "It broke.")])
    return table_of(sweep)


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def width_of(path):
    return pixels_of(path).shape[1]


def num_of_colour(path, colour):
    return int((np.abs(pixels_of(path) - colour).max(axis=2) < 8).sum())


def test_bars_show_the_papers_number_filled_only_where_it_is_comparable(tmp_path):
    draw_bars(tmp_path / "a.png", drawn_table(tmp_path / "a"))
    other = write_cell(tmp_path / "b/cells/x", [0.8, 0.9], auxiliary=source("BTAD"))
    write_record(tmp_path / "b", [cell("table3_full", 0, folder=str(other))])
    draw_bars(tmp_path / "b.png", table_of(tmp_path / "b"))
    filled, hollow = (num_of_colour(tmp_path / name, PAPER) for name in ("a.png", "b.png"))
    assert filled > 2 * hollow > 0


def test_losses_are_drawn_where_any_were_logged(tmp_path):
    table = drawn_table(tmp_path)
    assert draw_losses(tmp_path / "losses.png", table)
    assert width_of(tmp_path / "losses.png") > 800
    for path in tmp_path.rglob("metrics.csv"):
        path.unlink()
    assert not draw_losses(tmp_path / "none.png", table)
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("num", [11, 22])
def test_many_settings_have_colours_of_their_own(tmp_path, num):
    for i in range(num):
        config = config_with(module__network__mpfa_window=2 * i + 1)
        write_loss(write_cell(tmp_path / f"cells/reading_{i:02}_0", [0.5], config=config), [3.0 - i / 5, 2.0 - i / 5])
    write_record(tmp_path, [cell(f"reading_{i:02}", 0) for i in range(num)], "readings")
    table = table_of(tmp_path)
    assert draw_losses(tmp_path / "losses.png", table)
    pixels = pixels_of(tmp_path / "losses.png").reshape(-1, 3)
    strong = {tuple(c) for c, n in zip(*np.unique(pixels, axis=0, return_counts=True), strict=True) if n > 300}
    assert len(strong) >= min(num, 20)


def test_a_setting_has_one_curve_per_seed_by_what_it_trained_on_the_last_loss_of_each_epoch(tmp_path):
    for seed in (0, 1):
        write_loss(write_cell(tmp_path / str(seed), [0.5], seed=seed), [3.0 + seed, 2.0])
    with (tmp_path / "1" / "metrics.csv").open("a") as file:
        file.write("0,0,train/loss_step,9\n1,3,train/lr,1\n1,3,train/loss_epoch,1\n")
    write_record(tmp_path, [cell("table3_full", seed, folder=str(seed)) for seed in (0, 1)])
    table = table_of(tmp_path)
    assert read_curves(table, "table3_full") == {"VisA": [{0: 3.0, 1: 2.0}, {0: 4.0, 1: 1.0}]}
    assert read_curves(table, "table3_cmfr") == {}

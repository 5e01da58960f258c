import json

import pytest

from afr_clip.reports.record import schema
from afr_clip.reports.record.schema import HeatMaps, RecordError, Search, read_record

SEARCH = {"trials": [{"number": 0, "params": {"lr": 0.1}, "state": "done", "value": 1}], "more": "of another version"}


def refusal(path, kind=Search):
    with pytest.raises(RecordError) as caught:
        read_record(path, kind)
    return str(caught.value)


def test_a_record_is_read_with_what_no_reader_needs(tmp_path):
    path = tmp_path / "search.json"
    path.write_text(json.dumps(SEARCH))
    assert read_record(path, Search) == SEARCH


def test_every_fault_is_named_by_its_key_or_counted(tmp_path):
    path = tmp_path / "search.json"
    path.write_text(json.dumps({"trials": [{"number": True, "params": [], "value": "0.5"}], "objective": 3}))
    assert refusal(path) == (
        f"{path} cannot be read as the record of a search: trials[0].state is missing; trials[0].number must be a "
        "whole number, got true; trials[0].params must be an object, got []; 2 more. Restore the file, or leave its "
        "folder out."
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "Expecting value"),
        ('{"trials": [', "Expecting value"),
        ("3", "the content must be an object, got 3"),
        ("[" * 200_000, "it nests more than 40 lists and objects"),
        ("[" * 50 + "]" * 50, "it nests more than 40 lists and objects"),
        ('{"trials": [], "objective": {"a": Infinity}}', "it holds Infinity"),
        ('{"trials": [], "objective": {"a": 1e999}}', "it holds a number that is too large"),
        (f'{{"trials": [], "objective": {{"a": {10**30}}}}}', "it holds a number that is too large"),
        (f'{{"trials": [], "objective": {{"a": 1{"0" * 5000}}}}}', "integer string"),
        (b"\xff\xfe{}", "'utf-8' codec can't decode"),
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path, text, fault):
    path = tmp_path / "search.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refusal(path)
    assert said.startswith(f"{path} cannot be read as ")
    assert fault in said


def test_a_mark_of_byte_order_and_another_writers_nan_do_no_harm(tmp_path):
    path = tmp_path / "search.json"
    path.write_text('\ufeff{"trials": [{"number": 1, "params": {}, "state": "done", "value": NaN}]}', encoding="utf-8")
    assert read_record(path, Search)["trials"][0]["value"] is None


def test_text_is_displayed_in_one_line_that_can_be_written(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(r'{"trials": [], "objective": {"a\nb": ["\u0000", "\ud800", "c:\\d"]}}')
    objective = read_record(path, Search, for_display=True)["objective"]
    assert objective == {r"a\nb": [r"\x00", r"\ud800", r"c:\d"]}
    assert read_record(path, Search)["objective"] == {"a\nb": ["\x00", "\ud800", "c:\\d"]}


def test_a_file_that_is_too_large_or_no_file_is_not_opened(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(SEARCH))
    monkeypatch.setattr(schema, "LARGEST", 10)
    assert "bytes, and 10 is the most" in refusal(path)
    assert "it is not a regular file" in refusal(tmp_path)


def test_an_optional_text_may_be_null_and_a_number_may_be_whole(tmp_path):
    path = tmp_path / "index.json"
    entry = {"caption": "a", "image": "a.png", "anomaly_map": "b.png", "truth": None}
    path.write_text(json.dumps({"lowest": 0, "highest": 0.5, "sheets": {"highest": [entry]}}))
    assert read_record(path, HeatMaps)["sheets"]["highest"] == [entry]
    path.write_text(json.dumps({"lowest": 0, "highest": None, "sheets": {"highest": {}}}))
    assert "highest must be a number, got null; sheets.highest must be a list, got {}" in refusal(path, HeatMaps)

import sqlite3

import pytest

from afr_clip.watching.journal import Journal, JournalError, Stat

HERE = Stat(10, 5)


def content(number: int) -> dict:
    return {"id": f"{number:032x}", "n": number}


@pytest.fixture
def opened(tmp_path):
    journals = []

    def journal(name: str = "j.sqlite", folder=tmp_path) -> Journal:
        journals.append(Journal(tmp_path / name, folder))
        return journals[-1]

    yield journal
    for one in journals:
        one.close()


def numbers(journal: Journal, sink: str, most: int = 100) -> list[str]:
    return journal.pending(sink, most)[1]


def test_each_sink_gets_every_record_in_order_at_its_own_pace(opened):
    journal = opened()
    journal.join("a", {"at": 0})
    journal.join("b", {})
    journal.record([(b"x%d" % n, HERE, content(n)) for n in range(5)])
    last, first_two, state = journal.pending("a", 2)
    assert (len(first_two), state) == (2, {"at": 0})
    journal.delivered("a", last, {"at": 2})
    assert len(numbers(journal, "a")) == 3
    assert len(numbers(journal, "b")) == 5
    assert journal.pending("a", 2)[2] == {"at": 2}
    assert journal.num_pending() == {"a": 3, "b": 5}


def test_a_photograph_is_recorded_once_whatever_becomes_of_its_file(opened):
    journal = opened()
    journal.join("a", {})
    journal.record([(b"x", HERE, content(1))])
    journal.record([(b"x", Stat(10, 6), content(1))])
    assert journal.has(content(1)["id"])
    assert len(numbers(journal, "a")) == 1
    assert journal.files() == {b"x": Stat(10, 6)}
    journal.forget([b"x"])
    assert journal.files() == {}
    assert journal.has(content(1)["id"])


def test_what_all_sinks_have_is_dropped_and_a_new_sink_begins_there(opened):
    journal = opened()
    journal.join("a", {})
    journal.record([(b"x", HERE, content(1))])
    journal.delivered("a", journal.pending("a", 9)[0], {})
    journal.join("late", {})
    assert numbers(journal, "late") == []
    journal.record([(b"y", HERE, content(2))])
    assert len(numbers(journal, "a")) == len(numbers(journal, "late")) == 1


def test_a_sink_that_is_left_out_keeps_its_records_until_it_is_dropped(opened):
    journal = opened()
    for name in ("a", "b c", "done"):
        journal.join(name, {})
    journal.record([(b"x", HERE, content(1))])
    journal.delivered("done", journal.pending("done", 9)[0], {})
    with pytest.raises(
        JournalError, match=r"^b c still has 1 record to receive, .* Name it again, or write --drop-sink 'b c' to lose"
    ):
        journal.leave(["a"], [])
    assert journal.num_pending() == {"a": 1, "b c": 1, "done": 0}
    journal.leave(["a"], ["b c", "never there"])
    assert journal.num_pending() == {"a": 1}
    with pytest.raises(JournalError, match=r"--drop-sink a is a sink of this command\. Leave out"):
        journal.leave(["a"], ["a"])


def test_a_failed_transaction_leaves_nothing(opened):
    journal = opened()
    journal.join("a", {})
    with pytest.raises(ValueError, match="non-hexadecimal"):
        journal.record([(b"x", HERE, content(1)), (b"y", HERE, {"id": "no"})])
    assert (journal.files(), numbers(journal, "a")) == ({}, [])


def test_a_journal_is_used_by_one_process_and_for_one_folder(opened, tmp_path):
    first = opened()
    with pytest.raises(JournalError, match=r"is used by another afr-clip watch\. End that one"):
        opened()
    first.close()
    with pytest.raises(JournalError, match=r"The journal has folder .*, got .*other\. Choose another --out"):
        opened(folder=tmp_path / "other")
    opened()


def test_another_file_is_a_sentence(opened, tmp_path):
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(JournalError, match=r"is not a journal of afr-clip watch: file is not a database"):
        opened("text")
    with sqlite3.connect(tmp_path / "foreign") as database:
        database.execute("CREATE TABLE facts (other)")
    database.close()
    with pytest.raises(JournalError, match=r"foreign cannot be used: table facts has 1 columns"):
        opened("foreign")


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(opened):
    journal = opened()
    journal.join("a", {})
    journal.record([(b"x", HERE, content(1))])
    journal._database.execute("PRAGMA max_page_count = 1")  # SQLite takes the smallest number that holds what is there
    with pytest.raises(JournalError, match=r"cannot be used: database or disk is full\. What it holds is complete"):
        journal.record([(b"y", HERE, {**content(2), "long": "a" * 100_000})])
    assert len(numbers(journal, "a")) == 1
    assert journal.files() == {b"x": HERE}

"""Mistakes at the command line and the answers to them: for the tests, and for the page of the documentation.

The answers are given in a folder with ``photos/a.png``, ``parts/bolt/test/good/000.png``, an empty folder ``empty``, a
file ``notes.txt`` and a finished run ``done``.
"""

TYPICAL: tuple[tuple[str, str], ...] = ()
OTHERS: tuple[tuple[str, str], ...] = ()

"""Fuzz a decoder with atheris, which looks for inputs that reach code no input has reached before.

    python tests/fuzz/coverage_guided.py image -max_total_time=60
    python tests/fuzz/coverage_guided.py mask -runs=100000 -seed=1

What follows the decoder's name goes to libFuzzer. A sentence as refusal is right; any other error ends the run, and the
input that caused it is kept in the current folder.
"""

import contextlib
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["afr_clip.data.disk.picture_files", "PIL", "tifffile"]):
    from afr_clip.data.disk.decode import decode_image, decode_mask

from afr_clip.data.errors import DataError

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.picture_files import one_of_each

DECODERS = {"image": decode_image, "mask": decode_mask}


def main() -> None:
    decode = DECODERS[sys.argv.pop(1)]
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        path, corpus = Path(folder, "picture"), Path(folder, "corpus")
        corpus.mkdir()
        for number, file in enumerate(one_of_each()):
            (corpus / str(number)).write_bytes(file.content)

        def fuzz(content: bytes) -> None:
            path.write_bytes(content)
            with contextlib.suppress(DataError):
                decode(path)

        atheris.Setup([*sys.argv, str(corpus)], fuzz)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

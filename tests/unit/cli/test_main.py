import subprocess
import sys

import pytest

from afr_clip import __version__
from afr_clip.cli.main import COMMANDS, main


def test_help_names_every_command_and_an_example(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "afr-clip predict images=FOLDER" in text


def test_the_version_is_printed(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"afr-clip {__version__}\n"


def test_an_unknown_command_is_refused_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as end:
        main(["trian", "seed=1"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: afr-clip has no command trian. Did you mean train?\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("afr-clip train backbone=", {"backbone=pocket", "backbone=vit_l_14_336"}),
        ("afr-clip predict ima", {"images="}),
        ("afr-clip sweep experiment=ta", {"experiment=table3", "experiment=table6"}),
    ],
)
def test_the_shell_completes_config_groups_and_keys_of_the_command_that_is_typed(monkeypatch, line, words):
    monkeypatch.setenv("COMP_LINE", line)
    source = "from afr_clip.cli.main import main; main(['-sc', 'query=bash'])"
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert words <= set(done.stdout.split())


def test_a_wrong_name_of_a_dataset_is_refused_without_torch():
    code = (
        "import sys\nfrom afr_clip.cli.main import main\n"
        "try:\n    main(['datasets', 'check', 'mvtek'])\nfinally:\n    print({'torch', 'cv2'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "set()\n")
    assert "got mvtek." in done.stderr

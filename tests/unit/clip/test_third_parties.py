import subprocess
import sys
from importlib import import_module

import pytest
import torch

from afr_clip.clip.third_parties import _disable, postponed


def run_python(source: str) -> str:
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_towers_import_neither_wandb_nor_the_compiler():
    source = (
        "import sys\nfrom afr_clip.clip.third_parties import import_towers\nimport_towers()\n"
        "import afr_clip.clip.load, torchvision.transforms.v2.functional\n"
        "print([name for name in ('wandb', 'torch._dynamo', 'sympy', 'pandas') if name in sys.modules])"
    )
    assert run_python(source) == "[]"


def test_what_was_postponed_works_afterwards():
    source = (
        "from afr_clip.clip.third_parties import import_towers\nimport_towers()\n"
        "import sys, torch, torchvision, timm.utils.summary\n"
        "box = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])\n"
        "with torch.no_grad():\n"
        "    assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), box, 2).eq(1).all()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu') in (True, False)\n"
        "assert torch._dynamo.__file__ and torch._dynamo.utils.__file__\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).eq(2).all()\n"
        "import torchvision.transforms.v2.functional\n"
        "picture = torchvision.tv_tensors.Image(torch.zeros(3, 2, 2))\n"
        "assert type(torchvision.transforms.v2.functional.hflip(picture)) is torchvision.tv_tensors.Image\n"
        "log = timm.utils.summary.wandb.log\nimport wandb\nassert wandb.__file__ and log is wandb.log\nprint('done')"
    )
    assert run_python(source) == "done"


def test_a_version_that_needs_more_gets_the_real_modules(tmp_path):
    (tmp_path / "needs.py").write_text("from logbook_of_others import log, more")
    (tmp_path / "logbook_of_others.py").write_text("log = more = print")
    source = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom afr_clip.clip import third_parties\n"
        "third_parties.UNUSED = {'needs': {'logbook_of_others': {'log': print}}}\nthird_parties.import_towers()\n"
        "import needs\nprint(needs.more is print)"
    )
    assert run_python(source) == "True"


def test_a_module_that_is_imported_already_stays():
    with postponed({"sys": {}, "one_of_two": {}}):
        import sys as same  # noqa: PLC0415

        assert "one_of_two" not in sys.modules
    assert sys.modules["sys"] is same


def test_a_stand_in_is_gone_after_an_error():
    with pytest.raises(AttributeError, match="not imported yet"), postponed({"one_of_one": {}}):
        (one_of_one := import_module("one_of_one")).anything  # noqa: B018
    assert "one_of_one" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        one_of_one.anything  # noqa: B018


@pytest.mark.parametrize("disable", [torch.compiler.disable, _disable])
def test_what_is_not_to_be_compiled_is_not(disable):
    graphs = []

    def backend(graph, _):
        graphs.append(str(graph.code))
        return graph.forward

    @disable
    def inner(x):
        return x.sin()

    compiled = torch.compile(lambda x: inner(x + 1) * 2, backend=backend)
    assert compiled(torch.zeros(1)).item() == pytest.approx(2 * torch.ones(1).sin().item())
    assert len(graphs) == 2
    assert not any("sin" in graph for graph in graphs)

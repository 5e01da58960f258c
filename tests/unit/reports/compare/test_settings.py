import copy

import pytest

from afr_clip.reports.compare.settings import NOT_OF_A_SETTING, label_settings, run_name, setting_of
from helpers.results import BACKBONE, CONFIG, OF_WINCLIP, TINY, source

MANIFEST = {"config": CONFIG, "backbone": BACKBONE, "auxiliary": source("VisA"), "seed": 0}


def changed(**keys):
    """A manifest whose config differs in dotted keys."""
    manifest = copy.deepcopy(MANIFEST)
    for path, value in keys.items():
        *parents, last = path.split("__")
        node = manifest["config"]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return manifest


@pytest.mark.parametrize("key", sorted(NOT_OF_A_SETTING - {"trainer.max_epochs"}))
def test_seed_data_places_and_machine_make_no_other_setting(key):
    assert setting_of(changed(**{key.replace(".", "__"): "other"})).key == setting_of(MANIFEST).key


@pytest.mark.parametrize(
    "key",
    ["loss.image_weight", "module.network.mpfa_window", "data.batch_size", "trainer.max_epochs", "trainer.precision",
     "backbone.image_size", "something.new"],
)  # fmt: skip
def test_everything_else_makes_another_setting(key):
    assert setting_of(changed(**{key.replace(".", "__"): 7})).key != setting_of(MANIFEST).key


def test_what_a_recipe_chooses_by_the_dataset_makes_no_other_setting_unless_it_was_typed():
    by_dataset = {"by_dataset": ["data.mosaic", "trainer.max_epochs"]}
    on_visa, on_mvtec = (
        changed(data__mosaic=share, trainer__max_epochs=epochs) for share, epochs in ((0.0, 15), (0.2, 3))
    )
    assert setting_of(on_visa).key != setting_of(on_mvtec).key
    assert setting_of(on_visa | by_dataset).key == setting_of(on_mvtec | by_dataset).key
    config = on_visa["config"]
    stopped, finished = (
        evaluated(config) | {"checkpoint": MANIFEST | {"config": config, "epochs": epochs} | by_dataset}
        for epochs in (7, 15)
    )
    assert setting_of(stopped).key != setting_of(finished).key == setting_of(on_mvtec | by_dataset).key


def test_the_precision_that_was_chosen_decides_not_that_one_was_asked_for():
    asked = changed(trainer__precision="auto")
    single, half = (asked | {"precision": {"chosen": chosen}} for chosen in ("32-true", "bf16-mixed"))
    assert setting_of(single).key == setting_of(changed(trainer__precision="32-true")).key != setting_of(half).key


def test_other_weights_make_another_setting_wherever_they_lie():
    other = MANIFEST | {"backbone": BACKBONE | {"fingerprint": "e" * 64}}
    assert setting_of(other).key != setting_of(MANIFEST).key
    labels = label_settings([setting_of(MANIFEST), setting_of(other)])
    assert list(labels.values()) == [f"AFR-CLIP: frozen weights {digit * 8}" for digit in "fe"]


def evaluated(config, **checkpoint):
    trained = {"auxiliary": source("VisA"), "seed": 0, "epochs": 100, "config": CONFIG}
    return {"config": config, "backbone": BACKBONE, "checkpoint": trained | checkpoint}


def test_an_evaluation_has_the_setting_of_its_training():
    of_evaluation = {key: CONFIG[key] for key in ("backbone", "module")} | {"trainer": {"precision": "32-true"}}
    assert setting_of(evaluated(of_evaluation)).key == setting_of(MANIFEST).key
    half_trained = setting_of(evaluated(of_evaluation, epochs=50))
    assert half_trained.key != setting_of(MANIFEST).key
    labels = label_settings([setting_of(MANIFEST), half_trained])
    assert list(labels.values()) == ["AFR-CLIP: 100 epochs", "AFR-CLIP: 50 epochs"]


def test_what_an_evaluation_scores_with_counts():
    warm = {"backbone": CONFIG["backbone"], "module": CONFIG["module"] | {"temperature": 0.07}}
    assert setting_of(evaluated(warm)).decides["module.temperature"] == 0.07


def test_a_method_that_trains_nothing_has_no_training_in_its_setting():
    one = {key: value for key, value in changed(loss__image_weight=1).items() if key != "auxiliary"}
    other = {key: value for key, value in changed(loss__image_weight=2).items() if key != "auxiliary"}
    assert setting_of(one).key == setting_of(other).key


@pytest.mark.parametrize(
    ("module", "backbone", "label"),
    [
        ("afr_clip", BACKBONE, "AFR-CLIP"),
        ("winclip", OF_WINCLIP, "WinCLIP"),
        ("winclip", BACKBONE, "WinCLIP (vit_l_14_336)"),
        ("mine", BACKBONE, "mine"),
        ("ada_clip", BACKBONE | {"name": "pocket", "architecture": "afr-clip-pocket"}, "AdaCLIP (pocket)"),
        ("april_gan", TINY, "APRIL-GAN (tiny, random weights)"),
        ("anomaly_clip", BACKBONE | {"random_weights": True}, "AnomalyCLIP (random weights)"),
    ],
)
def test_a_label_is_the_method_and_a_backbone_that_its_published_numbers_do_not_stand_on(module, backbone, label):
    manifest = changed(module__name=module) | {"backbone": backbone}
    setting = setting_of(manifest)
    assert label_settings([setting]) == {setting.key: label}


def test_settings_of_one_method_are_told_apart_by_what_differs():
    settings = [setting_of(changed(module__network__cmfr__enabled=value)) for value in (True, False)]
    labels = list(label_settings([*settings, setting_of(changed(module__name="winclip"))]).values())
    assert labels == ["AFR-CLIP", "AFR-CLIP: no CMFR", "WinCLIP (vit_l_14_336)"]


def test_no_two_settings_share_a_label():
    settings = [setting_of(changed(a=i, b=i, c=i, d=i % 2, e=j)) for i in range(2) for j in range(2)]
    labels = list(label_settings(settings).values())
    assert labels[0] == "AFR-CLIP: a=0, b=0, c=0, 2 more, e=0"
    assert len(set(labels)) == 4


def test_what_most_settings_share_goes_unsaid():
    lrs = [setting_of(changed(optimizer__lr=lr)) for lr in (0.1, 0.1, 0.2)]
    others = [setting_of(changed(optimizer__lr=0.1, module__network__mpfa_window=size)) for size in (1, 5)]
    labels = list(label_settings([lrs[0], *others, lrs[2]]).values())
    assert labels == ["AFR-CLIP", "AFR-CLIP: no MPFA", "AFR-CLIP: MPFA over 5 x 5", "AFR-CLIP: lr 0.2"]


def test_a_given_label_is_used_and_told_apart_where_two_settings_have_it():
    given = [changed(label="mine", a=i) for i in (1, 2)] + [changed(label="AFR-CLIP", a=3), changed(a=4)]
    labels = list(label_settings([setting_of(manifest) for manifest in given]).values())
    assert labels == ["mine: a=1", "mine: a=2", "AFR-CLIP: a=3", "AFR-CLIP: a=4"]
    of_training = evaluated(CONFIG)
    of_training["checkpoint"]["config"] = CONFIG | {"label": "trained"}
    assert setting_of(of_training).given == "trained"


def test_a_given_label_that_equals_a_derived_one_is_numbered():
    settings = [setting_of(changed(module__network__mpfa_window=size, label=label)) for size, label in
                ((3, None), (1, None), (5, "AFR-CLIP: no MPFA"))]  # fmt: skip
    assert list(label_settings(settings).values())[1:] == ["AFR-CLIP: no MPFA", "AFR-CLIP: no MPFA, no. 2"]


def test_many_differences_are_called_by_the_files_that_make_them():
    many = {key: i for i, key in enumerate("abcde")}
    chosen = changed(**many) | {"choices": {"recipe": "recommended", "ablation": "no_cmfr", "module": "afr_clip"}}
    others = [setting_of(changed(**dict.fromkeys("abcde", 9), f=i)) for i in range(2)]
    assert label_settings([setting_of(chosen), *others])[setting_of(chosen).key] == (
        "AFR-CLIP: recipe recommended, no CMFR"
    )


def test_a_run_alone_is_named_by_what_was_given_chosen_and_typed():
    typed = ["module.network.mpfa_window=1", "run_dir=here", "ablation=no_sp", "trainer.max_epochs=3"]
    manifest = changed(module__network__mpfa_window=1) | {"overrides": typed, "choices": {"ablation": "no_sp"}}
    assert run_name(manifest) == "AFR-CLIP: no SP, no MPFA (visa, seed 0)"
    assert run_name(changed(label="mine")) == "mine (visa, seed 0)"
    assert run_name({key: value for key, value in MANIFEST.items() if key != "auxiliary"}) == "AFR-CLIP"

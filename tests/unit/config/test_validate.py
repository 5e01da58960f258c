import math
import subprocess
import sys

import pytest

from afr_clip.config.validate import ConfigError, MissingKeyError
from helpers.configs import validate


def test_the_default_config_is_valid(default_config):
    assert validate(default_config).task_name == "train"


@pytest.mark.parametrize("bad", [0, -1])
@pytest.mark.parametrize(
    "key",
    [
        "data.batch_size",
        "data.eval_batch_size",
        "data.max_pixels",
        "trainer.max_epochs",
        "trainer.accumulate_grad_batches",
        "trainer.log_every_n_steps",
        "optimizer.lr",
        "num_threads",
        "figure_every_n_epochs",
    ],
)
def test_what_must_be_positive_is(changed, key, bad):
    with pytest.raises(ConfigError, match=rf"^{key} must be positive, got {bad}\.\S* ?Change {key}=VALUE\.$"):
        validate(changed(**{key.replace(".", "__"): bad}))


@pytest.mark.parametrize(
    "key",
    [
        "data.num_workers",
        "num_figures",
        "seed",
        "optimizer.weight_decay",
        "loss.image_weight",
        "loss.focal_weight",
        "loss.dice_weight",
        "loss.complement_weight",
        "loss.focal_gamma",
        "loss.image_gamma",
        "loss.focal_smoothing",
        "loss.image_smoothing",
    ],
)
def test_what_must_not_be_negative_is_not_and_zero_will_do(changed, key):
    validate(changed(**{key.replace(".", "__"): 0}))
    with pytest.raises(ConfigError, match=rf"^{key} must be 0 or more, got -1"):
        validate(changed(**{key.replace(".", "__"): -1}))


@pytest.mark.parametrize(
    ("key", "wrong", "message"),
    [
        ("data.mosaic_kind", "caa", r"^data\.mosaic_kind must be one of by_type, class_aware, got caa"),
        ("data.mosaic_label", "four", r"^data\.mosaic_label must be one of any, replaced, got four"),
        ("loss.dice_per", "column", r"^loss\.dice_per must be one of image, row, got column"),
        ("loss.focal_smoothing", 0.5, r"^loss\.focal_smoothing must be below 0\.5, got 0\.5"),
    ],
)
def test_the_readings_of_the_public_codes_are_checked(changed, key, wrong, message):
    with pytest.raises(ConfigError, match=message):
        validate(changed(**{key.replace(".", "__"): wrong}))


def test_a_requeued_job_must_find_its_folder_again(changed):
    validate(changed(requeue=True, run_dir="runs/a"))
    with pytest.raises(ConfigError, match=r"^run_dir must be given with requeue=true"):
        validate(changed(requeue=True, run_dir=None))


def test_a_format_of_maps_needs_maps(changed):
    validate(changed(save_maps=True, map_format="tiff"))
    with pytest.raises(ConfigError, match=r"^map_format=tiff must come with save_maps=true"):
        validate(changed(save_maps=False, map_format="tiff"))


@pytest.mark.parametrize("window", [0, 2, -3])
def test_the_window_must_be_odd_and_positive(changed, window):
    validate(changed(module__network__mpfa_window=5))
    with pytest.raises(ConfigError, match=rf"^module\.network\.mpfa_window must be odd and positive, got {window}\."):
        validate(changed(module__network__mpfa_window=window))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_lies_between_none_and_all(changed, share):
    validate(changed(data__mosaic=0.2))
    with pytest.raises(ConfigError, match=rf"^data\.mosaic must be from 0 to 1, got {share}\."):
        validate(changed(data__mosaic=share))


def test_nan_is_no_learning_rate(changed):
    with pytest.raises(ConfigError, match=r"optimizer\.lr must be a finite number, got nan"):
        validate(changed(optimizer__lr=math.nan))


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_several_processes_are_allowed_as_long_as_each_has_an_image(changed, strategy):
    config = validate(changed(trainer__devices=2, trainer__num_nodes=2, trainer__strategy=strategy))
    assert config.trainer.num_processes == config.data.batch_size == 4


def test_null_means_unset_where_it_is_allowed(changed):
    unset = changed(num_threads=None, dataset__categories=None, trainer__gradient_clip_val=None)
    assert validate(unset).num_threads is None


UNCHOSEN = {f"dataset__{key}": "???" for key in ("name", "layout", "root", "categories", "drawn")}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"protocol__targets": ["visa", "mvtec_ad", "visa"]},
            "protocol.targets must name each dataset once, got visa twice. Remove one.",
        ),
        (
            {"protocol__targets": ["visa"], "protocol__roots": {"mvtec": "/data"}},
            "protocol.roots may only name datasets of protocol.targets=['visa'], got mvtec. Add it there.",
        ),
        (
            {"protocol__categories": {"visa": ["candle"]}},
            "protocol.categories may only name datasets of protocol.targets=[], got visa. Add it there.",
        ),
        (
            {"protocol__legs": {"visa": ["mpdd", "mpdd"]}, **UNCHOSEN},
            "protocol.legs.visa must name each dataset once, got mpdd twice. Remove one.",
        ),
        (
            {"protocol__legs": {"visa": ["mpdd", "visa"]}, **UNCHOSEN},
            "protocol.legs.visa must not score what its model is trained on, got ['mpdd', 'visa']. Take it out.",
        ),
        (
            {"protocol__legs": {"visa": ["mpdd"]}, "protocol__targets": ["isic"], **UNCHOSEN},
            "protocol.legs and protocol.targets exclude each other, got both; the targets are ['isic']. "
            "Leave the targets out, or choose protocol=no_targets.",
        ),
        (
            {"protocol__legs": {"mpdd": ["isic"]}},
            "dataset must not be set if protocol.legs name the training datasets, got visa. Leave it out, or remove it "
            "with ~dataset. protocol.roots and protocol.categories apply to legs too.",
        ),
        (
            {"protocol__legs": {"visa": ["mpdd"]}, "protocol__roots": {"isic": "/data"}, **UNCHOSEN},
            "protocol.roots may only name datasets of protocol.legs={'visa': ['mpdd']}, got isic. Add it there.",
        ),
        (
            {"dataset__categories": []},
            "dataset.categories must name at least one category, got none. Use null for all.",
        ),
        (
            {"trainer__devices": "auto"},
            "trainer.devices must be a whole number of 1 or more, got auto. It counts processes to start.",
        ),
        (
            {"trainer__devices": 2, "trainer__strategy": "fsdp"},
            "trainer.strategy must be one of auto, ddp, ddp_find_unused_parameters_true with several processes, got "
            "fsdp. Use ddp.",
        ),
        (
            {"trainer__devices": 4, "trainer__num_nodes": 2},
            "data.batch_size counts the images of all processes, so it must be at least their number, 8, got 4. "
            "Raise data.batch_size, or start fewer processes.",
        ),
    ],
)
def test_rules_across_keys_are_kept(changed, changes, sentence):
    with pytest.raises(ConfigError) as caught:
        validate(changed(**changes))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone__image_size": 0}, r"backbone\.image_size must be a positive number of pixels, got 0"),
        ({"backbone__tap_layers": [4, 2]}, r"tap_layers must ascend within 1 upwards, got \[4, 2\]"),
        ({"backbone__random_weights": True, "backbone__weights": "w.pt"}, r"exclude each other, got both"),
        ({"backbone__cnn__stages": []}, r"backbone\.cnn\.stages must name at least one stage, got none"),
        ({"module__network__cmfr__kernel_size": 2}, r"cmfr\.kernel_size must be odd and positive, got 2"),
        ({"module__network__self_prompting__stages": [1, 1]}, r"stages must name different stages from 1"),
        ({"module__network__scoring__temperature": 0.0}, r"scoring\.temperature must be positive, got 0\.0"),
    ],
)
def test_settings_refuse_their_own_values_before_anything_is_built(changed, changes, message):
    with pytest.raises(ConfigError, match=message):
        validate(changed(**changes))


def test_all_faults_are_reported_at_once(changed):
    config = changed(
        data__batch_size=0,
        seed=-1,
        data__mosaic=1.5,
        protocol__targets=["visa", "visa"],
        backbone__image_size=0,
        module__network__cmfr__kernel_size=4,
    )
    with pytest.raises(ConfigError) as caught:
        validate(config)
    first, *faults = str(caught.value).splitlines()
    assert first == "The config has 6 faults:"
    starts = {" ".join(fault.split()[:2]) for fault in faults}
    assert starts == {
        "- backbone.image_size",
        "- module.network.cmfr.kernel_size",
        "- data.batch_size",
        "- data.mosaic",
        "- protocol.targets",
        "- seed",
    }


@pytest.mark.parametrize(
    ("key", "known"), [("optimizer.name", "adam, adamw"), ("schedule.name", "constant, inverse_epoch, cosine, steps")]
)
def test_an_unknown_optimiser_or_schedule_is_refused_with_the_known_ones(changed, key, known):
    with pytest.raises(ConfigError, match=rf"^{key} must be one of {known}, got torch\.optim\.SGD\."):
        validate(changed(**{key.replace(".", "__"): "torch.optim.SGD"}))


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("optimizer._target_", "name, lr, betas"),
        ("backbone.cnn._target_", "architecture, pretrained"),
        ("module.network.cmfr.foo", "enabled, inner_dim"),
        ("trainer.foo", "accelerator, devices"),
    ],
)
def test_a_key_that_was_added_must_be_known_and_none_names_what_is_called(composed, key, known):
    node = key.rpartition(".")[0]
    with pytest.raises(ConfigError) as caught:
        validate(composed(f"+{key}=os.system"))
    assert str(caught.value).startswith(f"{key} is not a key of {node}, which has {known}")


@pytest.mark.parametrize("betas", [[0.9], [0.9, 1.0], [0.9, 0.9, 0.9]])
def test_betas_are_two_numbers_below_1(changed, betas):
    with pytest.raises(ConfigError, match=r"^optimizer\.betas must be two numbers in \[0, 1\), got"):
        validate(changed(optimizer__betas=betas))


ADVICE = {
    "images": "Write images=FOLDER, or name photographs: afr-clip predict a.jpg b.jpg category=WORDS.",
    "category": "Say in words what the photographs show: category='metal nut'.",
    "checkpoint": "Write checkpoint=RUN for the folder of a training, or checkpoint=pocket for the model that ships "
    "with the package.",
}


def test_missing_keys_are_named_all_at_once(composed):
    with pytest.raises(MissingKeyError, match=r"^The config has 2 faults:") as caught:
        validate(composed(command="calibrate"))
    for key in ("category", "good"):
        assert f"- {key} must be given, got nothing. {ADVICE.get(key, '')}" in str(caught.value)
    with pytest.raises(MissingKeyError) as caught:  # a prediction may call its photographs "object"
        validate(composed(command="predict"))
    assert str(caught.value) == f"images must be given, got nothing. {ADVICE['images']}"


def test_one_missing_key_is_one_sentence(composed):
    with pytest.raises(MissingKeyError) as caught:
        validate(composed("dataset=visa", command="evaluate"))
    assert str(caught.value) == f"checkpoint must be given, got nothing. {ADVICE['checkpoint']}"


def test_a_method_without_anything_to_train_is_not_trained_and_needs_no_checkpoint(composed):
    with pytest.raises(ConfigError) as caught:
        validate(composed("module=clip_similarity"))
    assert str(caught.value) == (
        "module=clip_similarity has nothing to train. Run afr-clip evaluate module=clip_similarity dataset=NAME, or "
        "choose a method that learns."
    )
    validate(composed("module=clip_similarity", "dataset=visa", command="evaluate"))


@pytest.mark.parametrize("method", ["anomaly_clip", "ada_clip", "april_gan"])
def test_released_weights_take_the_place_of_a_checkpoint(composed, method):
    keys = (f"module={method}", "dataset=visa")
    released = composed(*keys, "module.network.released_weights=theirs.pth", command="evaluate")
    assert not validate(released).module.network.needs_checkpoint
    with pytest.raises(MissingKeyError, match=r"^checkpoint must be given"):
        validate(composed(*keys, command="evaluate"))
    assert validate(composed(*keys)).module.network.needs_checkpoint


def test_a_method_may_be_trained_after_the_recipe_of_another_and_never_without_one(composed):
    validate(composed("recipe=april_gan"))
    with pytest.raises(MissingKeyError) as caught:
        validate(composed("~recipe"))
    assert str(caught.value) == "recipe must be given, got nothing. Add recipe=VALUE."


def test_published_weights_take_the_place_of_a_checkpoint(composed):
    method = ["module=anomaly_clip", "dataset=visa"]
    validate(composed(*method, "module.network.released_weights=epoch_15.pth", command="evaluate"))
    with pytest.raises(MissingKeyError, match="checkpoint must be given"):
        validate(composed(*method, command="evaluate"))


@pytest.mark.parametrize(("key", "typed"), [("images", "images="), ("category", "category='  '")])
def test_photographs_and_their_category_are_not_empty(composed, key, typed):
    given = {"images": "images=folder", "category": "category=cable"} | {key: typed}
    with pytest.raises(ConfigError, match=rf"^{key} must "):
        validate(composed(*given.values(), command="predict"))


def test_every_command_validates_once_its_keys_are_given(composed):
    validate(composed("dataset=visa", "checkpoint=run", command="evaluate"))
    validate(composed("checkpoint=run", "images=folder", "category=cable", command="predict"))


def test_words_for_defects_need_a_backbone_with_text(composed):
    typed = ("checkpoint=run", "images=folder", "module=uni_adet", "defects=[scratch,dent]")
    validate(composed(*typed, command="predict"))
    with pytest.raises(ConfigError, match=r"^defects are words, which need a text tower, .* Leave defects out, or use"):
        validate(composed(*typed, "backbone=dinov2_l_14_reg", command="predict"))


def test_faults_of_ranges_are_found_without_importing_torch():
    source = """
import sys
from hydra import compose, initialize_config_dir
from afr_clip.config.nodes import config_dir
from afr_clip.config.nodes import TrainConfig, register
from afr_clip.config.validate import ConfigError, read
register()
with initialize_config_dir(config_dir(), version_base="1.3"):
    config = compose("train", overrides=["seed=-1", "backbone.image_size=0"])
try:
    read(config, TrainConfig)
except ConfigError as error:
    print(len(str(error).splitlines()), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["3", "False"]


@pytest.mark.parametrize("protocol", ["cross_dataset", "cross_dataset_mvtec"])
def test_a_protocol_names_its_own_datasets(composed, protocol):
    validate(composed(f"protocol={protocol}"))
    validate(composed(f"protocol={protocol}", "+protocol.roots.visa=/v", "+protocol.categories.btad=[a]"))
    for chosen in ("dataset=mpdd",):
        with pytest.raises(ConfigError, match=r"^dataset must not be set if protocol\.legs name"):
            validate(composed(f"protocol={protocol}", chosen))


def test_legs_of_ones_own_need_no_file(composed):
    assert validate(composed("~dataset", "+protocol.legs.mpdd=[isic]")).dataset is None


FROZEN = {"module__network__self_prompting__enabled": False, "data__feature_cache": True}


def test_features_are_kept_where_nothing_that_learns_changes_them(changed):
    validate(changed(**FROZEN))
    with pytest.raises(ConfigError, match=r"^data\.feature_cache=true needs .* module=afr_clip .* Add ablation=no_sp"):
        validate(changed(data__feature_cache=True))


@pytest.mark.parametrize(("key", "value"), [("augment", True), ("mosaic", 0.2)])
def test_features_of_pictures_that_differ_in_every_epoch_are_not_kept(changed, key, value):
    with pytest.raises(ConfigError, match=rf"^data\.{key} must be .* with data\.feature_cache=true, got {value}"):
        validate(changed(**FROZEN, **{f"data__{key}": value}))


def test_a_method_that_normalises_over_a_batch_trains_in_one_process(composed):
    several = ("module=adapt_clip", "dataset=visa", "trainer.devices=2")
    sentence = r"^module=adapt_clip normalises over all images of a batch, .* got trainer\.devices=2 and"
    with pytest.raises(ConfigError, match=sentence):
        validate(composed(*several))
    validate(composed(*several, "checkpoint=RUN", command="evaluate"))
    validate(composed("module=april_gan", *several[1:]))


@pytest.mark.parametrize(("method", "is_frozen"), [("april_gan", True), ("anomaly_clip", True), ("ada_clip", False)])
def test_every_method_says_whether_its_features_can_be_kept(composed, method, is_frozen):
    config = composed(f"module={method}", "data.feature_cache=true", "data.mosaic=0")
    if is_frozen:
        validate(config)
    else:
        with pytest.raises(
            ConfigError, match=r"module=ada_clip puts learned parts into it\. Leave data\.feature_cache out\.$"
        ):
            validate(config)


def test_features_are_not_kept_where_nothing_is_trained(composed):
    config = composed("module=clip_similarity", "dataset=visa", "data.feature_cache=true", command="evaluate")
    with pytest.raises(ConfigError, match=r"^data\.feature_cache must be false where nothing is trained"):
        validate(config)


def test_features_are_kept_as_one_of_two_kinds(changed):
    validate(changed(**FROZEN, data__feature_dtype="float16"))
    with pytest.raises(ConfigError, match=r"^data\.feature_dtype must be float32 without data\.feature_cache=true"):
        validate(changed(data__feature_dtype="float16"))
    with pytest.raises(ConfigError, match=r"^data\.feature_dtype must be one of float32, float16, got bfloat16"):
        validate(changed(data__feature_dtype="bfloat16"))


def test_a_training_in_stages_is_long_enough_for_all_of_them(composed):
    validate(composed("module=aa_clip", "dataset=visa", "trainer.max_epochs=6"))
    with pytest.raises(ConfigError, match=r"^trainer\.max_epochs must be at least 6 for module=aa_clip, .* got 5\."):
        validate(composed("module=aa_clip", "dataset=visa", "trainer.max_epochs=5"))

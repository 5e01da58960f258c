"""One screen of help for each command that takes keys: an example, and the keys that a user needs first."""

from collections.abc import Sequence

TEXTS: dict[str, tuple[str, str, Sequence[tuple[str, str]]]] = {
    "predict": (
        "afr-clip predict IMAGES... [category=WORDS] [KEY=VALUE ...]",
        "afr-clip predict photos category='metal nut' run_dir=outputs/nuts",
        (
            ("images", "a photograph, a folder, a pattern such as 'photos/*.jpg', or a list [a,b]"),
            ("category", "what the photographs show, in words; default: object"),
            ("compare_names", "other names as a list, [object]: the image score under each, to see what the name does"),
            ("checkpoint", "a run folder or its checkpoints/last.ckpt; default: pocket, shipped with the package"),
            ("run_dir", "for scores.csv, maps/ and overlays/; default: a new folder below outputs/predict"),
            ("resume", "true: resume the stopped run in run_dir"),
            ("map_format", "png (16 bits) or tiff (float32)"),
            ("backbone.image_size", "side of the square that the model sees, in pixels"),
            ("data.eval_batch_size", "photographs per batch"),
            ("trainer.accelerator", "auto, cpu or gpu"),
        ),
    ),
    "calibrate": (
        "afr-clip calibrate GOOD category=WORDS [KEY=VALUE ...]",
        "afr-clip calibrate photos/good category='metal nut' false_alarms=0.01 run_dir=outputs/nut_thresholds",
        (
            ("good", "a folder of photographs of good parts, each part once; 1 % needs 99 of them"),
            ("category", "what the photographs show, in words, as for predict"),
            ("false_alarms", "the share of good parts that may be reported"),
            ("decide_by", "image (score), region (maximum of the map) or either, which halves the budget for each"),
            ("undecided", "a confidence such as 0.95: parts too near the threshold for it are undecided"),
            ("bad", "a folder of bad parts, to see how many are missed"),
            ("escape", "the share of bad parts that may be missed; decides instead of false_alarms; 2 % needs 49"),
            ("best_f1", "true: the threshold of the best F1 on good and bad parts"),
            ("checkpoint", "a run folder or its checkpoints/last.ckpt; default: pocket, shipped with the package"),
            ("run_dir", "for calibration.json; default: a new folder below outputs/calibrate"),
        ),
    ),
    "export": (
        "afr-clip export categories=[WORDS,...] [to=onnx|openvino] [KEY=VALUE ...]",
        "afr-clip export checkpoint=pocket categories=['metal nut'] to=onnx run_dir=outputs/nut_model",
        (
            ("categories", "what photographs may show, as a list: their text embeddings become part of the file"),
            ("to", "onnx, or openvino"),
            ("precision", "int8: smaller and often faster, if it loses at most 0.5 points of AUROC on dataset=NAME"),
            ("checkpoint", "a run folder or its checkpoints/last.ckpt; default: pocket, shipped with the package"),
            ("calibration", "calibration.json of afr-clip calibrate, which becomes part of the file"),
            ("images", "photographs with which the file is checked, in addition to its test pictures"),
            ("licence", "of the model, as a text for the file"),
            ("backbone.image_size", "side of the square that the model sees, in pixels"),
            ("run_dir", "for model.onnx or model.xml; default: a new folder below outputs/export"),
        ),
    ),
    "evaluate": (
        "afr-clip evaluate checkpoint=RUN dataset=NAME [KEY=VALUE ...]",
        "afr-clip evaluate checkpoint=outputs/first dataset=folder dataset.root=DIR",
        (
            ("checkpoint", "a run folder or its checkpoints/last.ckpt, or pocket, which ships with the package"),
            ("dataset", "what is scored: mvtec_ad, visa, ..., or folder with dataset.root=DIR for your own"),
            ("dataset.categories", "some categories only, as a list: [bottle,grid]"),
            ("data_dir", "the folder that holds the public datasets; default: AFR_CLIP_DATA_DIR"),
            ("module", "a method that needs no checkpoint: winclip or clip_similarity"),
            ("run_dir", "the folder for the results; default: a new one below outputs/evaluate"),
            ("resume", "true: resume the stopped run in run_dir"),
            ("save_maps", "true: write every anomaly map"),
            ("trainer.accelerator", "auto, cpu or gpu"),
        ),
    ),
    "train": (
        "afr-clip train [KEY=VALUE ...]",
        "afr-clip train dataset=visa protocol.targets=[mvtec_ad] data_dir=DIR",
        (
            ("dataset", "what is trained on: visa, mvtec_ad, ..., or folder with dataset.root=DIR for your own"),
            ("protocol.targets", "datasets to score after the training, as a list: [mvtec_ad,mpdd]"),
            ("suite", "a published comparison: afr11, crane14, adaclip14, visualad13 or anomalyvfm24"),
            ("data_dir", "the folder that holds the public datasets; default: AFR_CLIP_DATA_DIR"),
            ("module", "the method, afr_clip by default; afr-clip methods lists them"),
            ("backbone", "the frozen CLIP; pocket needs no download"),
            ("experiment", "a file of settings; experiment=demo runs without any data"),
            ("trainer.max_epochs", "epochs"),
            ("optimizer.lr", "learning rate"),
            ("data.batch_size", "images per step"),
            ("seed", "random seed of weights, order and augmentation"),
            ("run_dir", "the folder of the run; default: a new one below outputs/train"),
            ("resume", "true: resume the stopped run in run_dir"),
        ),
    ),
    "diagnose": (
        "afr-clip diagnose RUN [KEY=VALUE ...]",
        "afr-clip diagnose outputs/first",
        (
            ("run_dir", "the folder of a train or evaluate run; the word RUN stands for it"),
            ("dataset", "another dataset than those that the run scored"),
            ("wrong_category", "the name given to every image, to see whether the category matters"),
            ("untrained", "true: an untrained network, which needs no run but a dataset"),
        ),
    ),
    "sweep": (
        "afr-clip sweep experiment=NAME sweep_dir=DIR [KEY=VALUE ...]",
        "afr-clip sweep experiment=table3 seeds=[0,1,2] sweep_dir=outputs/table3",
        (
            ("experiment", "what is varied: paper (everything), methods, table3, ..., readings, search, or a file"),
            ("sweep_dir", "the folder of the sweep; the same command resumes it"),
            ("seeds", "each setting is trained once per seed, as a list"),
            ("jobs", "cells at a time on this machine"),
            ("dry_run", "true: only print the cells and their estimated cost"),
            ("leave_out", "settings to skip, as a list"),
            ("num_trials", "trials of a search"),
        ),
    ),
}  # fmt: skip


def help_of(command: str) -> str:
    """Return the help of a command."""
    usage, example, keys = TEXTS[command]
    width = max(len(key) for key, _ in keys) + 2
    lines = [f"usage: {usage}", "", f"  {example}", "", *(f"  {key:<{width}}{text}" for key, text in keys), ""]
    lines += [
        "A key is written KEY=VALUE; a choice such as module=winclip picks a file of settings.",
        "Quote spaces: category='metal nut'. A list is one word: [a,b]. --category 'metal nut' works too.",
        "",
        f"  afr-clip {command} --cfg job       every key with the value it would have",
        f"  afr-clip {command} --help-all      the same with the names of all choices",
        f"  afr-clip {command} -m seed=0,1     one run for each value",
        "  --config-dir DIR (more config files), --debug (tracebacks), --version",
    ]
    return "\n".join(lines) + "\n"

import pytest

from afr_clip.metrics.protocol import METRICS
from afr_clip.training.loggers.mirror import RunFacts
from afr_clip.training.loggers.mlflow import MLflowMirror, leaves
from afr_clip.training.loggers.published import Published, ResultRow

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")


def mirror(folder) -> MLflowMirror:
    facts = RunFacts(folder, "train", {"seed": 3, "module": {"name": "afr_clip"}}, ("table3",))
    return MLflowMirror(facts, experiment="afr-clip", tracking_uri=None)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's, of its own models
def test_a_resumed_run_goes_on_in_its_run(tmp_path, caplog):
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "last.ckpt").write_text("weights")
    first = mirror(tmp_path)
    first.log_metrics({"train/loss_epoch": 0.5, "epoch": 0}, 3)
    first.close(succeeded=False)
    second = mirror(tmp_path)
    second.log_metrics({"train/loss_epoch": 0.25, "epoch": 1}, 6)
    rows = [ResultRow("visa", "mean", dict.fromkeys(METRICS, 0.5), 3, 4, is_mean=True)]
    second.log_picture("figures/visa/highest", tmp_path / "results.json")
    second.publish(Published(rows, checkpoint=tmp_path / "last.ckpt", files=[tmp_path / "results.json"]))
    second.close(succeeded=True)
    assert caplog.records == []
    from mlflow.tracking import MlflowClient  # noqa: PLC0415

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("afr-clip").experiment_id])
    assert run.info.run_id == (tmp_path / "mlflow_run_id").read_text().strip()
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "module.name": "afr_clip"}
    assert run.data.tags["table3"] == "true"
    history = client.get_metric_history(run.info.run_id, "train/loss_epoch")
    assert [(m.step, m.value) for m in history] == [(3, 0.5), (6, 0.25)]
    assert run.data.metrics["mean/visa/i_auroc"] == 0.5
    artifacts = {a.path for folder in ("model", "results", "figures/visa")
                 for a in client.list_artifacts(run.info.run_id, folder)}  # fmt: skip
    assert artifacts == {"model/last.ckpt", "results/results.json", "figures/visa/results.json"}
    assert (tmp_path / "mlflow" / "artifacts").is_dir()


def test_parameters_are_flat_and_short():
    assert list(leaves({"a": {"b": [1, 2], "c": {"d": None}}, "e": "x" * 999})) == [
        ("a.b", "[1, 2]"),
        ("a.c.d", "None"),
        ("e", "x" * 500),
    ]

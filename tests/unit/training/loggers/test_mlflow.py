import pytest

from afr_clip.training.loggers.mirror import Mirror, Picture, Published, RunFacts
from afr_clip.training.loggers.mlflow import MLflow

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")


def mirror(folder) -> Mirror:
    config = {"seed": 3, "module": {"name": "afr_clip", "network": {"taps": [1, 2]}}, "long": "x" * 999}
    facts = RunFacts(folder, "train", config, ("table3",), "no CMFR (visa, seed 3)")
    return Mirror(MLflow, facts, experiment="afr-clip", tracking_uri=None)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's, of its own models
def test_a_resumed_run_goes_on_in_its_run(tmp_path, caplog):
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "last.ckpt").write_text("weights")
    first = mirror(tmp_path)
    first.log_metrics({"train/loss_epoch": 0.5, "epoch": 0}, 3)
    first.close(succeeded=False)
    second = mirror(tmp_path)
    second.log_metrics({"train/loss_epoch": 0.25, "epoch": 1}, 6)
    second.log_pictures("figures/visa/highest", [Picture(tmp_path / "results.json")])
    means = {"mean/visa/i_auroc": 0.5}
    second.publish(Published(means=means, checkpoint=tmp_path / "last.ckpt", files=[tmp_path / "results.json"]))
    second.close(succeeded=True)
    assert caplog.records == []
    from mlflow.tracking import MlflowClient  # noqa: PLC0415

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("afr-clip").experiment_id])
    assert run.info.run_id == (tmp_path / "mlflow_run_id").read_text().strip()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "no CMFR (visa, seed 3)"
    assert run.data.params == {
        "seed": "3", "module.name": "afr_clip", "module.network.taps": "[1, 2]", "long": "x" * 250
    }  # fmt: skip
    assert run.data.tags["table3"] == "true"
    history = client.get_metric_history(run.info.run_id, "train/loss_epoch")
    assert [(m.step, m.value) for m in history] == [(3, 0.5), (6, 0.25)]
    assert run.data.metrics["mean/visa/i_auroc"] == 0.5
    artifacts = {a.path for folder in ("model", "results", "figures/visa")
                 for a in client.list_artifacts(run.info.run_id, folder)}  # fmt: skip
    assert artifacts == {"model/last.ckpt", "results/results.json", "figures/visa/results.json"}
    assert (tmp_path / "mlflow" / "artifacts").is_dir()


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.parametrize("name", ["a?b #%20ü"])
def test_the_database_lies_in_the_run_folder_whatever_that_is_called(tmp_path, name, caplog):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    logged = mirror(folder)
    logged.publish(Published(files=[folder / "results.json"]))
    logged.close(succeeded=True)
    assert caplog.records == []
    assert (folder / "mlflow" / "mlflow.db").stat().st_size > 0
    assert len(list((folder / "mlflow" / "artifacts").rglob("results.json"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]

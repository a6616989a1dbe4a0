"""Two real runs on one small store, evaluated: what comparisons and reports are made of."""

from pathlib import Path
from typing import Any

from kit.run.finetune import finetune
from kit.settings import Settings
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.checkpoints import store_for

NAMES = ("first", "second")


def make_runs(folder: Path, database: Path) -> list[Path]:
    """Fine-tune twice, with different learning rates, and evaluate both.

    Args:
        folder: Empty folder; becomes the parent of the runs, with an MLflow store.
        database: Empty MLflow database to copy.
    """
    (folder / "mlflow.db").write_bytes(database.read_bytes())
    store = store_for(folder / "store", times=20)
    runs = []
    for name, rate in zip(NAMES, (1e-3, 2e-3), strict=True):
        raw: dict[str, Any] = {
            "run": {"name": name, "dir": folder},
            "data": {"store": str(store.path)},
            "model": {"variant": "tiny", "weights": "random"},
            "optim": {"lr": rate, "warmup": 1},
            "train": {"steps": 3, "device": "cpu"},
            "track": {"uri": f"sqlite:///{folder / 'mlflow.db'}"},
        }
        result = finetune(Settings.model_validate(raw))
        evaluate(EvaluateSettings(checkpoint=Path(result.checkpoint), device="cpu", base=False))
        runs.append(folder / name)
    return runs

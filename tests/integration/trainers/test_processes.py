"""The callbacks in two processes that train one model: no one waits for the other, one file, one run."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

TRANSFORMERS = """
import sys
import torch
from tests.integration.trainers.test_transformers import trainer_of, watch

folder, background = sys.argv[1], sys.argv[2] == "True"
saving = {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 4}
for steps, checkpoint in ((4, None), (12, f"{folder}/checkpoint-4")):
    trainer = trainer_of(
        folder, ddp_backend="gloo", max_steps=steps, metric_for_best_model="loss", **saving
    )
    callback = watch(every=3, background=background).attach(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
drawn = [row["step"] for row in trainer.state.log_history if "spectral/alarms" in row]
print(f"read {len(callback.monitor.history)}, drawn to {drawn[-1]};", flush=True)
torch.distributed.destroy_process_group()
"""

LIGHTNING = """
import sys
import lightning.pytorch
import torch
from tests.integration.trainers.test_lightning import Kept, batches, module_of, trainer_of, watch

folder, background = sys.argv[1], sys.argv[2] == "True"
kept, callback = Kept(), watch(every=3, background=background)
trainer = trainer_of(
    folder, callback, devices=2, strategy="ddp", logger=kept, max_epochs=2
)
trainer.fit(module_of(lightning.pytorch), batches())
trainer.save_checkpoint(f"{folder}/last.ckpt")
print(f"read {len(callback.monitor.history)}, drawn to {kept.drawn()[-1][0]};", flush=True)
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(("script", "n_layers"), [(TRANSFORMERS, 14), (LIGHTNING, 2)])
def test_two_processes_read_each_layer_once_and_one_writes(tmp_path, script, n_layers, background):
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(path, tmp_path / "run", str(background)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
            "PATH": "/usr/bin:/bin",
        },
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    history = tmp_path / "run/spectral/history.jsonl"
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    read = [(row["step"], row["layer"]) for row in rows]
    assert sorted({step for step, _ in read}) == [1, 3, 6, 9, 12]
    assert len(set(read)) == len(read) == 5 * n_layers
    assert done.stdout.count(f"read {len(read)}, drawn to 12;") == 2, "both know the same"

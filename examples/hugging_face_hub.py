"""A round trip over the Hugging Face Hub: the run, a card that says how it was made, and back.

pip install huggingface_hub
python examples/hugging_face_hub.py                                # into a folder: to see what would go up
python examples/hugging_face_hub.py --repo-id me/wsrl-pendulum     # huggingface-cli login first
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import typer
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OSAC, OfflineDataset
from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT
from sb3_o2o.evaluation import NormalizedEvalCallback, evaluate
from sb3_o2o.evaluation.plotting import plot_learning_curve
from sb3_o2o.version import __version__


class FolderHub:
    """The three calls of ``HfApi`` that are used here, on a folder instead of the Hub."""

    def __init__(self, folder: Path):
        self.folder = folder

    def create_repo(self, repo_id: str, exist_ok: bool = False) -> None:
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id: str) -> str:
        return str(self.folder / repo_id)


def card(repo_id: str, env_id: str, dataset: OfflineDataset, recipe: dict[str, Any], scores: dict) -> ModelCard:
    """What somebody who finds the model wants to know, in the form that the Hub reads."""
    rows = "\n".join(f"| {name} | {mean:.1f} ± {deviation:.1f} |" for name, (mean, deviation) in scores.items())
    mean, deviation = scores["after fine-tuning"]
    result = EvalResult(
        task_type="reinforcement-learning",
        task_name="offline-to-online reinforcement learning",
        dataset_type=env_id,
        dataset_name=env_id,
        metric_type="mean_reward",
        metric_value=f"{mean:.2f} +/- {deviation:.2f}",
    )
    data = ModelCardData(
        library_name="stable-baselines3",
        tags=["reinforcement-learning", "offline-to-online", "sb3_o2o", env_id],
        model_name=repo_id,
        eval_results=[result],
    )
    return ModelCard(f"""---
{data.to_yaml()}
---

# {repo_id}

Pre-trained on a dataset and fine-tuned in `{env_id}` with sb3_o2o {__version__}.

```python
from huggingface_hub import snapshot_download

from sb3_o2o import O2OSAC

model = O2OSAC.load(snapshot_download("{repo_id}") + "/model")
```

## Scores

| policy | mean return |
|---|---|
{rows}

![Learning curve](learning_curve.png)

## Dataset

`{Path(str(dataset.source)).name}`: {len(dataset):,} transitions in {len(dataset.episode_starts)} episodes, mean return
{dataset.episode_returns.mean():.1f}.

## Recipe

```yaml
{yaml.safe_dump(recipe, sort_keys=False).strip()}
```
""")


def main(
    repo_id: str = "",
    dataset: str = str(DEMO_DATASET),
    env_id: str = DEMO_ENVIRONMENT,
    gradient_steps: int = 10_000,
    steps: int = 5_000,
    eval_episodes: int = 10,
    folder: Path = Path("runs/hugging_face_hub"),
) -> None:
    recipe = {"recipe": "wsrl", "n_critics": 5, "finetuning": [{"Warmup": {"steps": steps // 5}}]}
    env, eval_env, data = make_vec_env(env_id, seed=0), make_vec_env(env_id), OfflineDataset.load(dataset)

    def watched(phase: str, every: int) -> NormalizedEvalCallback:
        return NormalizedEvalCallback(
            eval_env, eval_freq=every, n_eval_episodes=eval_episodes, log_path=str(folder / phase), seed=1, verbose=0
        )

    model = O2OSAC("MlpPolicy", env, seed=0, **recipe)  # type: ignore[arg-type]
    model.pretrain(data, gradient_steps, callback=watched("offline", max(gradient_steps // 5, 1)))
    offline = evaluate(model, eval_env, eval_episodes, seed=1)
    model.learn(steps, callback=watched("online", max(steps // 5, 1)))
    online = evaluate(model, eval_env, eval_episodes, seed=1)
    plot_learning_curve(folder, title=f"wsrl, {env_id}")

    # Up: the model, its evaluations, the picture and the card ...
    api: Any = HfApi() if repo_id else FolderHub(folder / "hub")
    repo_id = repo_id or "me/wsrl-demo"
    scores = {"offline": offline, "after fine-tuning": online}
    numbers = {name: (float(each.returns.mean()), float(each.returns.std())) for name, each in scores.items()}
    with tempfile.TemporaryDirectory() as staging:
        model.save(Path(staging) / "model")
        shutil.copy(folder / "learning_curve.png", staging)
        for phase in ("offline", "online"):
            (Path(staging) / phase).mkdir()
            shutil.copy(folder / phase / "evaluations.npz", Path(staging) / phase)
        card(repo_id, env_id, data, recipe, numbers).save(Path(staging) / "README.md")
        api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=staging, commit_message="A run of sb3_o2o")

    # ... and down again: the same policy.
    found = Path(api.snapshot_download(repo_id))
    again = evaluate(O2OSAC.load(found / "model", env=env), eval_env, eval_episodes, seed=1)
    same = bool((again.returns == online.returns).all())
    print(f"{found}: {', '.join(sorted(path.name for path in found.iterdir() if not path.name.startswith('.')))}")
    said = "the same" if same else "NOT the same"
    print(f"Return {online.returns.mean():.1f} before, {again.returns.mean():.1f} after: {said}.")


if __name__ == "__main__":
    typer.run(main)

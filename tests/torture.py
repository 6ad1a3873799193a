"""
Kills runs at random moments, lets them go on, and compares all that they end with.

``make torture N=1000``, or ``python tests/torture.py --points 1000``. Every point is a run of a recipe on a tiny
environment, in a process of its own that is killed (SIGKILL, which nothing can answer) at a random moment, one to three
times: while it prepares, makes steps, evaluates, draws, or writes a file. Then every file of the run's folder is read,
the run goes on from its newest resume bundle, and at its end all is compared with a run that was never killed: weights,
optimisers, buffers, random streams, what callbacks know, evaluations, diagnostics and saved models.

Processes are forked from one that has imported everything: a run takes a second, the imports would take five.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch as th
import torch._dynamo  # what optimisers import when the first is made
import torch.utils.tensorboard
import yaml
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_o2o import O2OPPO, O2OSAC, ResumeBundle
from sb3_o2o.data import OfflineDataset
from sb3_o2o.files import remove_leftovers, write_whole
from sb3_o2o.recipes import list_recipes, load_recipe
from sb3_o2o.resume import newest_bundle
from sb3_o2o.runs import training
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig, RunFolder
from sb3_o2o.runs.training import prepare, train

#: what a run leaves of itself when it is complete
END = "end.json"
#: steps of both phases, and of those in between
PRETRAIN_STEPS, ONLINE_STEPS, PHASE_STEPS, COLLECT_STEPS = 16, 36, 8, 10

#: what monitors and diagnostics know of the time of day, and a run's own name
OF_CLOCKS = ("t", "t_start", "episode_times", "seconds", "run_id")

SHORT: dict[str, dict[str, Any]] = {
    "Warmup": {"steps": 6},
    "PolicyReevaluation": {"gradient_steps": PHASE_STEPS, "batch_size": 8},
    "ValueAlignment": {"gradient_steps": PHASE_STEPS},
    "OnlinePretraining": {"collect_steps": COLLECT_STEPS, "gradient_steps": PHASE_STEPS},
    "ChampionChallenger": {"episodes": 2, "confidence": 0.0},
    "ConstrainedFineTuning": {"anneal_steps": 30},
    "AuxiliaryAdvantage": {"anneal_steps": 30},
    "AdaptiveBC": {"references": [-10.0, 0.0]},
    "ActorCriticAlignment": {"anneal_steps": 30},
    "JumpStart": {"anneal_steps": 30, "mean_steps": 3},
    "TrustRegion": {"anneal_steps": 30},
}


def _short_freeze(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"freeze_policy_steps": 6} if options.get("freeze_policy_steps") else {}


# -- what is run ---------------------------------------------------------------------------------------------------


def of_recipe(name: str, n_envs: int = 1, looks: bool = False) -> Callable[[Path, Path], Any]:
    """A run as the command line makes it: evaluations, checkpoints, and if it looks, diagnostics and pictures."""

    def run(folder: Path, dataset: Path) -> Any:
        recipe = load_recipe(name)
        config = RunConfig(
            command="finetune",
            environment=Environment(tiny.BOX),
            recipe=name,
            dataset=str(dataset),
            overrides=_small(recipe),
            pretrain_steps=PRETRAIN_STEPS if recipe.pretrain_steps else 0,
            online_steps=ONLINE_STEPS * n_envs,
            n_envs=n_envs,
            n_eval_episodes=1,
            n_evaluations=3,
            n_checkpoints=1,
            diagnostics=looks,
            threads=1,
        )
        run_folder = RunFolder(folder)
        found = newest_bundle(run_folder.resume_bundle)
        prepared = prepare(config, None if found is None else found[0], recipe)
        if found is None:
            run_folder.forget_progress(config)
            run_folder.write_start(config, prepared.arguments())
        if not looks:  # drawing takes as long as all the rest
            vars(training)["draw"] = lambda *_: run_folder.picture
        train(prepared, run_folder, bundles=often(run_folder.resume_bundle))
        return prepared.model

    return run


def _small(recipe: Any) -> dict[str, Any]:
    """What makes a recipe short: tiny networks, batches and buffers that begin again."""
    on_policy = recipe.algorithm == "O2OPPO"
    sizes = {"n_steps": 8, "pretrain_batch_size": 8, "n_epochs": 2} if on_policy else {"buffer_size": 60}
    if recipe.arguments.get("n_critics", 2) > 10:
        sizes["n_critics"] = 10
    if not on_policy:
        sizes["gradient_steps"] = min(recipe.arguments.get("gradient_steps", 1), 4)
    if recipe.arguments.get("learning_starts"):
        sizes["learning_starts"] = 6
    kwargs = dict(recipe.arguments.get("objective_kwargs") or {})
    if recipe.arguments["objective"] == "spot":
        kwargs.update(density_steps=PHASE_STEPS, density_net_arch=[8])
    if "n_actions" in kwargs:
        kwargs["n_actions"] = 2
    finetuning = [
        {kind: {**(options or {}), **SHORT.get(kind, {}), **_short_freeze(options or {})}}
        for callback in recipe.arguments.get("finetuning") or ()
        for kind, options in (callback.items() if isinstance(callback, Mapping) else [(callback, {})])
    ]
    policy = {**(recipe.arguments.get("policy_kwargs") or {}), "net_arch": [8]}
    return {
        **sizes,
        "batch_size": 8,
        "policy_kwargs": policy,
        "finetuning": finetuning,
        **({"objective_kwargs": kwargs} if kwargs else {}),
    }


def often(path: Path) -> ResumeBundle:
    """More bundles than anybody needs, so that kills meet them."""
    return ResumeBundle(path, every=5, min_seconds=0.0, max_share=None)


def by_hand(build: Callable[[Any], Any], n_envs: int = 1, normalize: bool = False) -> Callable[[Path, Path], Any]:
    """A script of a user's, with Stable-Baselines3's own evaluations, whose environments nobody seeds."""

    def run(folder: Path, dataset: Path) -> Any:
        bundles, evaluations = folder / "bundles", folder / "online"
        env: Any = make_vec_env(tiny.BOX, n_envs, seed=3)
        evaluation_env: Any = make_vec_env(tiny.BOX, 1, seed=4)
        if normalize:
            env, evaluation_env = VecNormalize(env), VecNormalize(evaluation_env, training=False, norm_reward=False)
        if newest_bundle(bundles) is None:
            shutil.rmtree(evaluations, ignore_errors=True)
            model = build(env)
        else:
            algorithm = type(build(env))
            model = algorithm.load_resume(bundles, env, device="cpu")
        if model.n_pretrain_steps < PRETRAIN_STEPS:
            missing = PRETRAIN_STEPS - model.n_pretrain_steps
            is_new = model.n_pretrain_steps == 0
            model.pretrain(str(dataset), missing, callback=often(bundles), reset_gradient_steps=is_new)
        missing = ONLINE_STEPS * n_envs - model.num_timesteps
        evaluation = EvalCallback(
            evaluation_env,
            n_eval_episodes=2,
            eval_freq=5,
            log_path=str(evaluations),
            best_model_save_path=str(evaluations),
            verbose=0,
            warn=False,
        )
        is_new = model.num_timesteps == 0 and model._last_obs is None
        if missing > 0:
            model.learn(missing, callback=[evaluation, often(bundles)], reset_num_timesteps=is_new)
        return model

    return run


def _sac(env: Any) -> O2OSAC:
    finetuning = [
        {"PolicyReevaluation": {"gradient_steps": PHASE_STEPS}},
        {"ValueAlignment": {"gradient_steps": PHASE_STEPS}},
        {"ConstrainedFineTuning": {"anneal_steps": 30}},
        {"SymmetricReplay": {"offline_fraction": 0.5}},
    ]
    small: dict[str, Any] = {
        "batch_size": 8,
        "buffer_size": 60,
        "learning_starts": 4,
        "policy_kwargs": {"net_arch": [8]},
    }
    return O2OSAC("MlpPolicy", env, finetuning=finetuning, seed=5, device="cpu", **small)


def _ppo(env: Any) -> O2OPPO:
    finetuning = [{"AuxiliaryAdvantage": {"anneal_steps": 30}}]
    small: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "policy_kwargs": {"net_arch": [8]}}
    return O2OPPO("MlpPolicy", env, finetuning=finetuning, seed=5, device="cpu", **small)


CASES: dict[str, Callable[[Path, Path], Any]] = {
    **{name: of_recipe(name) for name in list_recipes()},
    **{f"{name}, diagnostics": of_recipe(name, looks=True) for name in ("cql", "td3_bc")},
    **{f"{name}, two environments": of_recipe(name, 2) for name in ("wsrl", "o2sac", "o2td3", "o2ppo", "opt_td3")},
    "by hand, sac": by_hand(_sac),
    "by hand, sac, VecNormalize, two environments": by_hand(_sac, 2, normalize=True),
    "by hand, ppo": by_hand(_ppo),
    "by hand, ppo, VecNormalize": by_hand(_ppo, normalize=True),
}


# -- what is compared ----------------------------------------------------------------------------------------------


def fingerprints(model: Any, folder: Path) -> dict[str, str]:
    """
    :param model: at the end of its run
    :param folder: of the run
    :return: a checksum of each thing that a run ends with
    """
    found: dict[str, Any] = {}
    found.update(_flat("parameters", model.get_parameters()))
    for name in (
        "log_ent_coef",
        "num_timesteps",
        "n_pretrain_steps",
        "_n_updates",
        "_episode_num",
        "phase",
        "phase_steps",
    ):
        found.update(_flat(name, getattr(model, name, None)))
    for name in ("finished_phases", "_last_obs", "_last_episode_starts", "learning_starts", "action_noise"):
        found.update(_flat(name, getattr(model, name, None)))
    for name in ("replay_buffer", "rollout_buffer", "offline_buffer"):
        found.update(_flat(name, _state_of_buffer(getattr(model, name, None))))
    states = model.call.interruption(model.finetuning, None).states
    found.update(_flat("callbacks", sorted(states, key=lambda state: state[0])))
    found.update(_flat("episodes", [[each["r"], each["l"]] for each in model.ep_info_buffer or ()]))
    found.update(_flat("random", [random.getstate(), np.random.get_state(), th.get_rng_state()]))
    found["random/action space"] = str(model.action_space.np_random.bit_generator.state)
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as saved:
                found.update(_flat(name, dict(saved)))
        elif path.suffix == ".csv":
            found[name] = path.read_text()
        elif path.suffix == ".zip":
            found.update(_flat(name, _tensors(path)))
    return {name: hashlib.sha256(_bytes(value)).hexdigest()[:16] for name, value in found.items()}


def _state_of_buffer(buffer: Any) -> dict[str, Any] | None:
    if buffer is None:
        return None
    kept: dict[str, Any] = {}
    for name, value in vars(buffer).items():
        if name in ("_last", "_rest", "_returns"):
            continue  # of the dataset, which a buffer opens when it is drawn from
        if isinstance(value, np.ndarray | int | float | bool | dict):
            kept[name] = value
        elif hasattr(value, "buffer_size"):
            kept[name] = _state_of_buffer(value)
    if hasattr(type(buffer), "rng"):
        kept["rng"] = buffer.rng
    return kept


def _tensors(path: Path) -> dict[str, Any]:
    """The weights and moments in a saved model."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        return {name: th.load(io.BytesIO(archive.read(name)), weights_only=True) for name in names}


def _flat(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > 12:
        return
    if isinstance(value, np.random.Generator | np.random.RandomState):
        yield name, str(value.bit_generator.state if isinstance(value, np.random.Generator) else value.get_state())
    elif isinstance(value, th.nn.Module):
        yield from _flat(name, value.state_dict(), depth + 1)
        yield from _flat(f"{name}/optimizer", getattr(value, "optimizer", None), depth + 1)
    elif isinstance(value, th.optim.Optimizer):
        yield from _flat(name, value.state_dict(), depth + 1)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in OF_CLOCKS:
                yield from _flat(f"{name}/{key}", each, depth + 1)
    elif isinstance(value, list | tuple | deque):
        for index, each in enumerate(value):
            yield from _flat(f"{name}/{index}", each, depth + 1)
    elif hasattr(value, "buffer_size"):
        yield from _flat(name, _state_of_buffer(value), depth + 1)
    elif isinstance(value, np.ndarray | np.generic | th.Tensor | int | float | str | bool | None):
        yield name, value
    elif type(value).__module__.startswith(("sb3_o2o.", "stable_baselines3.")) and hasattr(value, "__dict__"):
        yield from _flat(name, vars(value), depth + 1)


def _bytes(value: Any) -> bytes:
    if isinstance(value, th.Tensor):
        value = value.detach().cpu().contiguous().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}".encode() + (
            repr(value.tolist()).encode() if value.dtype == object else np.ascontiguousarray(value).tobytes()
        )
    return repr(value).encode()


def broken_files(folder: Path) -> list[str]:
    """
    :param folder: of a run that has been killed
    :return: the files that cannot be read. What was being written has a name of its own, and is none of them
    """
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        try:
            _read(path)
        except Exception as error:
            found.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}")
    for bundle in sorted(folder.glob("*/bundle_*")):
        try:
            newest_bundle(bundle)
        except ValueError as error:
            found.append(str(error))
    return found


def _read(path: Path) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            # of one that is cut, what is found may be an archive inside of it
            assert {"data", "value.json"} & set(archive.namelist())
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as saved:
            dict(saved)
    elif path.suffix == ".yml":
        assert yaml.safe_load(path.read_text())
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".png":
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    elif path.suffix == ".csv":
        assert path.read_text().endswith("\n")


# -- processes -----------------------------------------------------------------------------------------------------


def start(case: str, folder: Path, dataset: Path) -> int:
    """
    :return: id of a new process that begins a run, or goes on with it
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        vars(os)["fsync"] = lambda descriptor: None  # what was written outlives the process, if not the machine
        os.dup2(log, 1)
        os.dup2(log, 2)
        folder.mkdir(exist_ok=True)
        remove_leftovers(folder)
        model = CASES[case](folder, dataset)
        write_whole(folder / END, json.dumps(fingerprints(model, folder)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def processor_seconds(pid: int) -> float:
    """
    :param pid: of a process of ours
    :return: what it has used of a processor; Linux says it
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Task:
    """
    :param case: what is run
    :param folder: where
    :param kills: seconds of processor time after which it is killed, each time that it is started; then it may end
    """

    case: str
    folder: Path
    kills: list[float] = field(default_factory=list)
    pid: int = 0
    seconds: float = 0.0
    n_killed: int = 0
    broken: list[str] = field(default_factory=list)
    failed: bool = False

    def start(self, dataset: Path) -> None:
        """Begin, or go on."""
        self.pid = start(self.case, self.folder, dataset)

    def is_over(self, dataset: Path) -> bool:
        """Look at the process, kill it if its time has come, and let it go on."""
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            if self.kills and processor_seconds(self.pid) >= self.kills[0]:
                self.kills.pop(0)
                os.kill(self.pid, signal.SIGKILL)
            return False
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self.n_killed += 1
            self.broken += broken_files(self.folder)
            self.start(dataset)
            return False
        self.failed, self.seconds = os.waitstatus_to_exitcode(status) != 0, used.ru_utime + used.ru_stime
        return True

    def end(self) -> dict[str, str]:
        """What the run ended with."""
        found: dict[str, str] = json.loads((self.folder / END).read_text())
        return found


def run_all(tasks: list[Task], dataset: Path, n_workers: int, done: Callable[[Task], None]) -> None:
    """
    :param tasks: in their order
    :param dataset: that all are given
    :param n_workers: how many run side by side
    :param done: is told of each
    """
    waiting, running = deque(tasks), []
    try:
        while waiting or running:
            while waiting and len(running) < n_workers:
                running.append(waiting.popleft())
                running[-1].start(dataset)
            for task in [each for each in running if each.is_over(dataset)]:
                running.remove(task)
                done(task)
            time.sleep(0.002)
    finally:  # those of a torture that is stopped
        for task in running:
            os.kill(task.pid, signal.SIGKILL)
            os.waitpid(task.pid, 0)


@dataclass
class Result:
    """What came of all points."""

    points: int = 0
    kills: int = 0
    equal: int = 0
    differing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether all was equal and whole."""
        return self.points == self.equal and not (self.differing or self.broken or self.failed)

    def __str__(self) -> str:
        lines = [
            f"points {self.points}, kills {self.kills}, equal {self.equal}, differing {len(self.differing)}, "
            f"failed {len(self.failed)}, files broken {len(self.broken)}"
        ]
        return "\n".join([*lines, *self.differing, *self.failed, *self.broken])


def torture(n_points: int, folder: Path, seed: int, cases: list[str], n_workers: int) -> Result:
    """
    :param n_points: runs that are killed
    :param folder: where they write; those that were equal are deleted
    :param seed: of the moments
    :param cases: to choose from; each once before any comes again
    :param n_workers: processes side by side
    :return: what came of it
    """
    rng = random.Random(seed)
    dataset = folder / "dataset.npz"
    _write_dataset(dataset)
    straight: dict[str, dict[str, str]] = {}
    seconds: dict[str, float] = {}
    result = Result()

    def keep(task: Task) -> None:
        if task.failed:
            result.failed.append(f"failed, alone: {task.case}: {task.folder.with_suffix('.log').read_text()[-2000:]}")
            print(result.failed[-1], flush=True)
            return
        straight[task.case], seconds[task.case] = task.end(), task.seconds
        shutil.rmtree(task.folder)

    order = [case for _ in range(-(-n_points // len(cases))) for case in rng.sample(cases, len(cases))][:n_points]
    names = list(dict.fromkeys(order))
    run_all([Task(case, folder / f"straight {case}") for case in names], dataset, n_workers, keep)
    print(f"{len(names)} straight runs of {min(seconds.values()):.1f} to {max(seconds.values()):.1f} s", flush=True)

    def compare(task: Task) -> None:
        result.points, result.kills = result.points + 1, result.kills + task.n_killed
        name = f"{task.folder.name} {task.case}"
        for each in task.broken:
            result.broken.append(f"broken in {name}: {each}")
            print(result.broken[-1], flush=True)
        if task.failed:
            result.failed.append(f"failed: {name}: {task.folder.with_suffix('.log').read_text()[-1500:]}")
            print(result.failed[-1], flush=True)
            return
        expected, found = straight[task.case], task.end()
        others = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        if others:
            kinds = Counter(key.split("/")[0] for key in others)
            said = ", ".join(f"{kind} ({count}, such as {_first(others, kind)})" for kind, count in kinds.items())
            result.differing.append(f"differs: {name}: {len(others)} of {len(expected)} keys: {said}")
            print(result.differing[-1], flush=True)
        else:
            result.equal += 1
            shutil.rmtree(task.folder)
            task.folder.with_suffix(".log").unlink()
        if result.points % 20 == 0:
            print(str(result).splitlines()[0], flush=True)

    tasks = []
    for number, case in enumerate(each for each in order if each in straight):
        # of processor time, which does not depend on what else the machine does
        kills = [rng.uniform(0.0, seconds[case]) for _ in range(rng.choice((1, 1, 2, 3)))]
        tasks.append(Task(case, folder / f"point {number}", kills))
    with suppress(KeyboardInterrupt):  # what came of it until then is told as well
        run_all(tasks, dataset, n_workers, compare)
    return result


def _first(names: list[str], kind: str) -> str:
    return next(each for each in names if each.split("/")[0] == kind)


def _write_dataset(path: Path) -> None:
    rng, n = np.random.default_rng(0), 60
    env = tiny.TinyBox()
    ends = np.arange(n) % tiny.EPISODE == tiny.EPISODE - 1
    observations = rng.normal(size=(n, 2))
    following = np.concatenate([observations[1:], rng.normal(size=(1, 2))])
    OfflineDataset.load(
        {
            "observations": observations,
            "actions": rng.uniform(-1, 1, size=(n, 1)).astype(np.float32),
            "rewards": -np.abs(rng.normal(size=n)),
            "next_observations": following,
            "terminations": np.zeros(n, bool),
            "truncations": ends,
        },
        observation_space=env.observation_space,
        action_space=env.action_space,
    ).save(path)


def main(arguments: list[str] | None = None) -> int:
    """:return: 0 where every run ended as it would have, and no file was broken"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20, help="runs that are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--cases", nargs="*", help="of these alone")
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    parser.add_argument("--folder", type=Path, default=Path("runs/torture"), help="where the runs write")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped either way, it says what came of it
    th.set_num_threads(1)
    tiny.register()
    folder = given.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["SB3_O2O_CACHE"] = str(folder / "cache")
    result = torture(given.points, folder, given.seed, given.cases or list(CASES), given.workers)
    print(result)
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())

"""Twenty runs are killed at random moments; ``make torture N=1000`` kills as many as one likes, of all recipes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torture
from toy_tasks import make

#: of every kind: phases without environment steps, a buffer of its own, two environments, PPO, stock evaluations
CASES = [
    "wsrl",
    "o2sac",
    "opt_spot",
    "o2ppo",
    "o2td3, two environments",
    "by hand, sac, VecNormalize, two environments",
]


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has used of a processor is read from /proc")
def test_runs_that_are_killed_end_as_those_that_are_not(tmp_path: Path) -> None:
    script = Path(torture.__file__)
    command = [sys.executable, str(script), "--points", "20", "--workers", "2", "--folder", str(tmp_path / "torture")]
    done = subprocess.run([*command, "--cases", *CASES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "points 20, " in done.stdout
    assert "equal 20, differing 0, failed 0, files broken 0" in done.stdout
    assert "kills 0," not in done.stdout


def test_it_finds_what_differs_and_what_is_broken(tmp_path: Path) -> None:
    """What is compared and read must be able to tell."""
    model = make().learn(20)
    model.save(tmp_path / "model.zip")
    before = torture.fingerprints(model, tmp_path)
    assert before == torture.fingerprints(model, tmp_path)
    assert torture.broken_files(tmp_path) == []
    model.replay_buffer.rewards[3] += 1e-6  # type: ignore[union-attr]
    after = torture.fingerprints(model, tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["replay_buffer/rewards"]
    assert {"parameters/policy/actor.mu.weight", "model.zip/policy.pth/actor.mu.weight", "random/action space"} <= set(
        before
    )
    (tmp_path / "model.zip").write_bytes((tmp_path / "model.zip").read_bytes()[:-100])
    (tmp_path / "evaluations.npz").write_bytes(b"half")
    assert [each.split(":")[0] for each in torture.broken_files(tmp_path)] == ["evaluations.npz", "model.zip"]

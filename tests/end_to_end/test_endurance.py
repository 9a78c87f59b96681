"""What happens to machines ends no run badly: kills, a clock set back, a full disk, a reader that is gone."""

from g2lstm.commands.endurance import endure


def test_two_workers_killed_at_any_moment_end_as_ones_never_killed(commands, tiny, tmp_path):
    """The long version is experiments/endurance.py."""
    options = [*tiny, "gate=gumbel", "epochs=3", "finetune=false", "eval.cache.enabled=false"]

    def start(options: list[str], workers: int) -> list:
        return commands.workers(workers, *options)

    found = endure(options, tmp_path, start, kills=2, workers=2, seed=11)
    assert found["same_weights"]
    assert found["same_curve"]
    assert [moment["unreadable"] for moment in found["moments"]] == [None] * 2
    assert [moment["while"] for moment in found["moments"]] == ["training", "starting"]
    assert [moment["workers"] for moment in found["moments"]] == [[0], [0, 1]]

"""Fine-tunes the compressed model of a run and shows how it goes: for experiments/compress.py."""

from rich.console import Console

from g2lstm.compression.deploy import Deployed
from g2lstm.compression.tuning import tune
from g2lstm.runs.device import build_device, set_threads
from g2lstm.runs.run import Run, blamed
from g2lstm.training.progress import Reporter


def tuned(run: Run, deployed: Deployed, passes: float, lr_share: float, seed: int, console: Console) -> Deployed:
    """The compressed model of a run after so many passes over the run's train split; see `tune`."""
    with blamed(run):
        task = run.task()
        set_threads(run.config.run.threads)
        reporter = Reporter(console)
        unit, values = f"{task.metric.unit}_per_second", list[float]()

        def trained(share: float, loss: float, speed: float, left: float) -> None:
            reporter.trained("finetune", 1, 1, share, {"loss": loss, unit: speed}, left, task.metric)

        def evaluated(share: float, metrics: dict[str, float]) -> None:
            values.append(metrics[task.metric.name])
            reporter.say(f"fine-tuned {share:.0%}: valid {task.metric.name} {values[-1]:.{task.metric.digits}f}")

        reporter.start()
        try:
            found = tune(
                deployed, task, run.config.settings, passes=passes, lr_share=lr_share, seed=seed,
                device=build_device(run.config.run.device), trained=trained, evaluated=evaluated,
            )  # fmt: skip
        finally:
            reporter.stop()
    best = (min if task.metric.lower_is_better else max)(values)
    kept = "nothing was better, so that it stays as it was" if best == values[0] else f"kept is the best, {best:.2f}"
    reporter.say(f"valid {task.metric.name} {values[0]:.2f} before fine-tuning; {kept}")
    return found

"""Fine-tunes the compressed model of a run and shows how it goes: for experiments/compress.py."""

from rich.console import Console

from g2lstm.compression.deploy import Deployed
from g2lstm.compression.tuning import tune
from g2lstm.runs.device import build_device, set_threads
from g2lstm.runs.run import Run, blamed
from g2lstm.training.interruption import StopSignals
from g2lstm.training.progress import Reporter


def tuned(
    run: Run, deployed: Deployed, passes: float, lr_share: float, seed: int, console: Console, stop: StopSignals
) -> Deployed:
    """The compressed model of a run after so many passes over the run's train split, or until `stop`; see `tune`."""
    with blamed(run):
        task = run.task()
        set_threads(run.config.run.threads)
        reporter = Reporter(console)
        metric, unit = task.metric, f"{task.metric.unit}_per_second"

        def trained(share: float, loss: float, speed: float, left: float) -> None:
            reporter.trained("finetune", 1, 1, share, {"loss": loss, unit: speed}, left, metric)

        def evaluated(share: float, metrics: dict[str, float]) -> None:
            reporter.say(f"fine-tuned {share:.0%}: valid {metric.name} {metrics[metric.name]:.{metric.digits}f}")

        reporter.start()
        try:
            found = tune(
                deployed, task, run.config.settings, passes=passes, lr_share=lr_share, seed=seed,
                device=build_device(run.config.run.device), stop=stop, trained=trained, evaluated=evaluated,
            )  # fmt: skip
        finally:
            reporter.stop()
    about, ended = found.notes.get("tuned"), "stopped: " if stop.asked else ""
    if about is None:
        reporter.say(f"{ended}kept is the model as it was, which was not evaluated")
        return found
    moment = f"that at {about['best_at']:.0%}" if about.get("best_at") else "the model as it was, nothing was better"
    before, best = (f"{about.get(name, about['before']):.{metric.digits}f}" for name in ("before", "best"))
    reporter.say(f"{ended}valid {metric.name} {before} before fine-tuning; kept is {moment}: {best}")
    return found

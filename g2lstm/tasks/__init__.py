"""The tasks: one file each, and this registry. A task of your own is named by `task.source=module:Class`."""

import importlib
from typing import Any

from g2lstm.errors import UserError
from g2lstm.tasks.language_model import LanguageModelTask
from g2lstm.tasks.mnist import MnistTask
from g2lstm.tasks.series import SeriesTask
from g2lstm.tasks.translation import TranslationTask

TASKS: dict[str, Any] = {
    **dict.fromkeys(("ptb", "text", "builtin"), LanguageModelTask),
    **dict.fromkeys(("iwslt14", "wmt14", "parallel", "numbers"), TranslationTask),
    "mnist": MnistTask,
    "series": SeriesTask,
}


def task_class(name: str, source: str | None = None) -> Any:
    """The class of a task, from the registry or from `source`, as "my_module:MyTask"; a UserError where there is none."""
    if source is None:
        if name not in TASKS:
            known = ", ".join(TASKS)
            raise UserError(f"task.name={name} is no task of {known}: choose one, or set task.source=module:Class")
        return TASKS[name]
    module, _, attribute = source.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"task.source={source} can't be imported ({error}): write module:Class") from None

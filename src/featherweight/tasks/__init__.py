"""What a model is asked, and what a good answer is.

QMSum, multiple choice, perplexity texts and the user's own rows, all as `Example`s; `evaluate`
runs an engine over them.
"""

from featherweight.tasks.load import TASKS, load_task
from featherweight.tasks.report import Report, evaluate
from featherweight.tasks.types import Example, Task

__all__ = ["TASKS", "Example", "Report", "Task", "evaluate", "load_task"]

"""What a model is asked, and what a good answer is.

QMSum, multiple choice, perplexity texts and the user's own rows, all as `Example`s.
"""

from featherweight.tasks.types import Example, Task

__all__ = ["Example", "Task"]

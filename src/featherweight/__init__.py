"""featherweight: compact language models that do a large model's work, and the proof."""

__version__ = "0.1.0"

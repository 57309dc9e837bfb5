"""What lessons are written with."""

from tinymi.teaching.catalogue import prompts
from tinymi.teaching.lesson import CheckError, Lesson
from tinymi.teaching.stats import Estimate
from tinymi.text import Token, show_token

__all__ = ["CheckError", "Estimate", "Lesson", "Token", "prompts", "show_token"]

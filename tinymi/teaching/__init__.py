"""What lessons are written with."""

from tinymi.teaching.catalogue import prompts
from tinymi.teaching.check import check, hint
from tinymi.teaching.lesson import CheckError, Lesson
from tinymi.teaching.stats import Estimate
from tinymi.text import Token, show_token

__all__ = ["CheckError", "Estimate", "Lesson", "Token", "check", "hint", "prompts", "show_token"]

"""`tinymi compare 4 MODEL MODEL`: what one lesson says of several models, side by side."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tinymi.errors import TinymiError
from tinymi.teaching.report import items, terminal
from tinymi.teaching.report.items import Document
from tinymi.teaching.running import run_lesson
from tinymi.text import show_text

Kind = TypeVar("Kind", bound=items.Item)
DEFAULT = "default"  # the name of the default model


def compare(lesson: Path, sources: Sequence[str]) -> int:
    """Run a lesson on each model in turn and print what it finds. Exit status 1: a check failed, a model was refused.

    sources: folders, hub ids, .gguf files, or "default" for the default model.
    """
    documents: dict[str, Document] = {}
    problems: dict[str, str] = {}
    for source in sources:
        print(f"{show_text(source)} ...", file=sys.stderr, flush=True)
        try:
            document = run_lesson(lesson, [] if source == DEFAULT else ["--model", source]).document
            assert document is not None  # a lesson that ends has one
            documents[source] = document
        except TinymiError as error:
            problems[source] = str(error)
    screen = terminal.Screen.of(sys.stdout)
    if documents:
        print("\n\n".join(terminal.render(item, screen) for item in side_by_side(documents)))
    for source, problem in problems.items():
        print(f"\n{show_text(source)}: {show_text(problem)}")
    failed = any(not check.passed for document in documents.values() for check in _all(document, items.Check))
    return int(failed or bool(problems))


def side_by_side(documents: dict[str, Document]) -> Iterator[items.Item]:
    """One table of the models, each answer, and one table per finding."""
    names = {"layers": "n_layers", "heads": "n_heads", "d_model": "d_model"}
    models = {name: [document.model[field] for document in documents.values()] for name, field in names.items()}
    checks = [[check.passed for check in _all(document, items.Check)] for document in documents.values()]
    passed = [f"{sum(done)} of {len(done)}" for done in checks]
    yield items.columns_table({"model": documents, **models, "checks passed": passed}, None, "", "")
    for source, document in documents.items():
        for headline in _all(document, items.Headline):
            yield items.Prose(f"{source}: {headline.text}")
    findings = [_all(document, items.Finding) for document in documents.values()]
    for same in zip(*findings):
        established = ["yes" if finding.established else "no" for finding in same]
        evidence = [finding.evidence.partition(";")[0] for finding in same]
        columns = {"model": documents, "established": established, "evidence": evidence}
        yield items.columns_table(columns, None, same[0].text, "")


def _all(document: Document, kind: type[Kind]) -> list[Kind]:
    return [item for item in document.items if isinstance(item, kind)]

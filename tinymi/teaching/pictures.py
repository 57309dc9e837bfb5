"""What a lesson shows besides text: each picture and table is one call with arrays."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinymi.teaching.report import items


class Pictures(ABC):
    """Calls that turn arrays into items. Each returns its item, for `lesson.headline(text, picture)`."""

    @abstractmethod
    def _put(self, item: items.Item) -> items.Item:
        """Show an item."""

    def step(
        self,
        name: str,
        meaning: str,
        code: str,
        *,
        result: Iterable[tuple[str, int]],
        numbers: Any,
        where: Mapping[str, tuple[Sequence[Any], int]],
        more: bool = False,
        factors: Iterable[Iterable[tuple[str, int]]] = (),
        times: str = "",
        multiply_adds: int = 0,
    ) -> items.Item:
        """One step of a run. Shapes are given as (name, size) of each axis; `factors` are those of its matmul.

        `numbers` are an excerpt of the result: a few at each place. `where` names the axes of the places:
        {"position": (str_tokens, 5), "head": (range(9), 0)} for [pos, n_heads, a few]; position 5, head 0 comes first.
        `times` says how often the matmul is done.
        """
        shapes = tuple(tuple(factor) for factor in factors)
        excerpts = items.make_choices(where, numbers)
        return self._put(items.Step(name, meaning, code, shapes, times, tuple(result), multiply_adds, *excerpts, more))

    def table(
        self, columns: Mapping[str, Any], rows: Iterable[int] | None = None, caption: str = "", format: str = ""
    ) -> items.Item:
        """A table of columns, {"head": names, "share": array}, all of one length.

        rows: which entries to show, in this order, such as np.argsort(-share)[:5]. format: how all floats are written.
        """
        return self._put(items.columns_table(columns, rows, caption, format))

    def bars(self, labels: Sequence[Any], values: Any, caption: str = "", format: str = "") -> items.Item:
        """Signed bars, one per label; `values` is a sequence, or {"attention": [...], "MLP": [...]} side by side."""
        names = tuple(items.plain(label) for label in labels)
        return self._put(items.Bars(names, items.make_series(values, len(names), "bars"), caption, format))

    def heatmap(
        self,
        values: Any,
        row_labels: Sequence[Any] | None = None,
        column_labels: Sequence[Any] | None = None,
        caption: str = "",
        row_axis: str = "",
        column_axis: str = "",
        center: float | None = 0.0,
        format: str = "",
        texts: Sequence[Sequence[Any]] | None = None,
        color: str = "",
    ) -> items.Item:
        """A grid of numbers [rows, columns]; labels default to 0, 1, 2 ...

        Colours are two-sided around `center`; with `center=None` they run from the smallest to the largest value.
        With `texts` [rows, columns] the cells say these (Tokens, say) and the numbers only colour them; `color`
        names what these are.
        """
        about = {
            "caption": caption,
            "row_axis": row_axis,
            "column_axis": column_axis,
            "center": center,
            "format": format,
            "color": color,
        }
        return self._put(items.make_heatmap(values, row_labels, column_labels, texts, **about))

    def attention(
        self, str_tokens: Sequence[str], patterns: Any, caption: str = "", heads: Iterable[Any] | None = None
    ) -> items.Item:
        """Attention patterns [n_heads, query_pos, key_pos] of one prompt, or {layer: patterns}.

        The page has a picker for layer and head. The terminal shows `heads`, a list of head numbers or of
        (layer, head); without it, the head that looks away from position 0 and from itself most.
        """
        return self._put(items.make_attention(str_tokens, patterns, caption, heads))

    def lines(
        self, x: Sequence[Any], series: Any, caption: str = "", x_label: str = "x", y_label: str = "", format: str = ""
    ) -> items.Item:
        """Curves over a common x: {"name": values} or one sequence of values."""
        places = tuple(float(value) for value in x)
        curves = items.make_series(series, len(places), "lines")
        return self._put(items.Lines(places, curves, caption, x_label, y_label, format))

    def highlight(
        self, rows: Iterable[Any], labels: Sequence[Any] = (), caption: str = "", format: str = ""
    ) -> items.Item:
        """Texts whose tokens are shaded by a value. rows: (tokens, values) pairs, such as a neuron's contexts."""
        return self._put(items.make_highlight(rows, labels, caption, format))

    def graph(
        self, nodes: Iterable[tuple[str, int, str]], edges: Iterable[tuple[str, str, float]], caption: str = ""
    ) -> items.Item:
        """A circuit. nodes: (name, layer, what it is), drawn from the bottom up; edges: (from, to, weight)."""
        arrows = tuple((start, end, float(weight)) for start, end, weight in edges)
        return self._put(items.Graph(tuple(nodes), arrows, caption))

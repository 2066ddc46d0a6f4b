"""An explorer: a question with knobs. Turning one shows another answer; on a page each knob is turned in a table.

The answer to a setting is a sentence, a few numbers, a table and a figure, all from one call of the library. With a
kernel and ipywidgets the knobs are there to turn; without them the same object shows the figure, the table, and for
each knob what turning it alone would do. HWLIMITS_STATIC=1 in the environment asks for that form, too: it is the one
that a stored notebook and a page keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

from matplotlib.figure import Figure

from hwlimits import plots, progress
from hwlimits.units import quantity

WHY_NOT = "why not"  # the column of a table with what the library says of a setting that can't be
_PLAIN = ("FLOP/byte", "dB", "×", "bit")  # units that take no prefix


class WidgetError(ValueError):
    """A knob, or a setting of one, that an explorer does not have; the text says which there are."""


@dataclass(frozen=True)
class Knob:
    """Something to turn: its name in the code, what it is called, the settings to choose from and the first of them.

    unit   of the settings, for their labels: as for `cell`

    Raises WidgetError without two settings, and for a start that is none of them.

    >>> Knob("batch", "images at once", (1, 8, 64), start=8).labels
    ('1', '8', '64')
    """

    name: str
    label: str
    values: tuple
    start: Any
    unit: str = ""

    def __post_init__(self):
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise WidgetError(f"knob {self.name!r}: settings {self.values}; give two or more that differ")
        if self.start not in self.values:
            raise WidgetError(f"knob {self.name!r} can't start at {self.start!r}; it has {_listed(self.values)}")

    @property
    def choice(self) -> bool:
        """True if it chooses among names, else it is turned along numbers."""
        return all(isinstance(value, str) for value in self.values)

    @property
    def labels(self) -> tuple[str, ...]:
        """The settings as they are shown."""
        return tuple(cell(value, self.unit) for value in self.values)


@dataclass(frozen=True)
class Answer:
    """What an explorer says at one setting.

    said    a sentence or two with the numbers that matter
    found   the numbers that turning a knob is to change: name -> number, or text
    rows    the table behind the figure: name -> number, or text, in each row
    draw    makes the figure, and the text for those who can't see it
    """

    said: str
    found: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[], tuple[Figure, str]]


class Explorer:
    """A question, its knobs, and the function that answers.

    units    name of a number -> its unit, for all names in `found` and `rows` that have one
    answer   takes every knob's setting by its name, and gives an Answer

    >>> knob = Knob("side", "side", (1, 2, 3), start=2, unit="m")
    >>> square = Explorer("How large is it?", [knob], lambda side: Answer("So.", {"area": side**2}, [], None), {})
    >>> square.at(side=5).found, square.sweep("side")
    ({'area': 25}, [{'side': 1, 'area': 1}, {'side': 2, 'area': 4}, {'side': 3, 'area': 9}])
    """

    def __init__(self, question: str, knobs: Sequence[Knob], answer: Callable[..., Answer], units: Mapping[str, str]):
        self.question, self.knobs = question, tuple(knobs)
        self._answer, self.units = answer, {knob.label: knob.unit for knob in knobs} | dict(units)

    def at(self, **settings) -> Answer:
        """The answer at these settings, the other knobs where they start. A number may lie between a knob's settings.

        Raises WidgetError for a knob that is not there and for a name that it does not have; what the numbers
        themselves can't be, the library says, by its own errors.
        """
        self._check(settings)
        return self._answer(**{knob.name: knob.start for knob in self.knobs} | settings)

    def _check(self, settings: Mapping[str, Any]) -> None:
        known = {knob.name: knob for knob in self.knobs}
        for name, value in settings.items():
            if name not in known:
                raise WidgetError(f"there is no knob {name!r}; there are {', '.join(known)}")
            if known[name].choice and value not in known[name].values:
                raise WidgetError(f"{name}={value!r} is not one of {_listed(known[name].values)}")
            if not known[name].choice and (isinstance(value, bool) or not isinstance(value, Real)):
                raise WidgetError(f"{name}={value!r} is no number; the knob has {_listed(known[name].values)}")

    def sweep(self, name: str, **settings) -> list[dict[str, Any]]:
        """What is found at each setting of one knob, the others as for `at`; a setting that can't be says why.

        Raises WidgetError as `at` does.
        """
        self._check(settings)
        (knob,) = [k for k in self.knobs if k.name == name] or [None]
        if knob is None:
            raise WidgetError(f"there is no knob {name!r}; there are {', '.join(k.name for k in self.knobs)}")
        rows = []
        for value in knob.values:
            try:
                found = self.at(**settings | {name: value}).found
            except ValueError as error:
                found = {WHY_NOT: str(error)}
            rows.append({knob.label: value, **found})
        return rows

    # --- the form of a page -------------------------------------------------------------------

    def markdown(self, **settings) -> str:
        """The sentence, the table, and for each knob, folded, what turning it alone does from these settings."""
        answer = self.at(**settings)
        parts = [f"**{self.question}** {answer.said}", _markdown_table(answer.rows, self.units)]
        for knob in self.knobs:
            table = _markdown_table(self.sweep(knob.name, **settings), self.units)
            parts.append(f"<details><summary>Turning: {escape(knob.label)}</summary>\n\n{table}\n\n</details>")
        return "\n\n".join(parts)

    def show(self, **settings) -> None:
        """Display the figure and what `markdown` has, in a notebook."""
        from IPython.display import Markdown, display

        plots.show(*self.at(**settings).draw())
        display(Markdown(self.markdown(**settings)))

    # --- the form with knobs ------------------------------------------------------------------

    def html(self, **settings) -> str:
        """Sentence, figure and table as HTML. A setting that can't be gives the library's sentence why not."""
        try:
            answer = self.at(**settings)
            figure, alt = answer.draw()
        except ValueError as error:
            return f'<p role="alert">{escape(str(error))}</p>'
        image = plots.html_image(figure, escape(alt))
        return f'<p role="status">{escape(answer.said)}</p>{image}{_html_table(answer.rows, self.units)}'

    def widget(self):
        """The knobs, and under them the answer, which follows them: an ipywidgets box.

        Raises WidgetError where ipywidgets is not installed.
        """
        try:
            import ipywidgets
        except ImportError:
            raise WidgetError(
                "knobs need ipywidgets, which is not installed: pip install ipywidgets, or use show()"
            ) from None
        turned, style = {}, {"description_width": "initial"}
        for knob in self.knobs:
            kind = ipywidgets.Dropdown if knob.choice else ipywidgets.SelectionSlider
            options = list(zip(knob.labels, knob.values, strict=True))
            more = {} if knob.choice else {"continuous_update": False}
            turned[knob.name] = kind(options=options, value=knob.start, description=knob.label, style=style, **more)
        page = ipywidgets.HTML(self.html())

        def follow(_) -> None:
            page.value = self.html(**{name: control.value for name, control in turned.items()})

        for control in turned.values():
            control.observe(follow, names="value")
        return ipywidgets.VBox([ipywidgets.HTML(f"<b>{escape(self.question)}</b>"), *turned.values(), page])

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if static():
            self.show()
        else:
            display(self.widget())


def static() -> bool:
    """True where pages are made, or ipywidgets is not installed: what is shown then has no knobs and no buttons."""
    if progress.static():
        return True
    from importlib.util import find_spec

    return find_spec("ipywidgets") is None


def cell(value, unit: str = "") -> str:
    """A value as a table shows it: three digits and its unit; a share as per cent with the unit '%'.

    >>> cell(0.25, "%"), cell(2.5e-5, "s"), cell(203.125, "FLOP/byte"), cell("memory"), cell(None), cell(16384)
    ('25%', '25 µs', '203 FLOP/byte', 'memory', '', '16,384')
    """
    if value is None or isinstance(value, str):
        return value or ""
    if value in (float("inf"), float("-inf")):
        return "infinite" if value > 0 else "-infinite"
    if isinstance(value, int) and not unit:
        return f"{value:,}"  # a count, exactly
    if unit == "%":
        return f"{100 * value:.3g}%"
    if unit in _PLAIN:
        return f"{value:.3g} {unit}"
    return quantity(value, unit) if unit or value >= 1 else f"{value:.3g}"


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _markdown_table(rows: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> str:
    columns = _columns(rows)
    lines = [columns, ["---"] * len(columns), *([cell(row.get(c), units.get(c, "")) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines)


def _html_table(rows: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> str:
    columns = _columns(rows)
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell(row.get(c), units.get(c, str())))}</td>' for c in columns)}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _listed(values: Sequence) -> str:
    return ", ".join(map(str, values))

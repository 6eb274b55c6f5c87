"""Draws the histograms of `tutelage inspect --plot`: statistics of keys in, a picture out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.cli.printing import say
from tutelage.schemas.arguments import absolute_path
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.printable import printable

if TYPE_CHECKING:
    from tutelage.tools.key_statistics import KeyStatistics

_FORMATS = (".png", ".svg", ".pdf")
# More would make the picture higher than image formats allow.
_MOST_HISTOGRAMS = 200
# Matplotlib finds no ticks for the largest numbers.
_TICKS_BELOW = 1e300
_MOST_TITLE_CHARACTERS = 80


def check_plot(file: Path) -> Path:
    """Check that histograms can be drawn to a file.

    Returns:
        The file's absolute path.

    Raises:
        ConfigurationError: Matplotlib is missing, the format is not supported, or the file cannot
            have this path.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigurationError("--plot needs matplotlib: pip install 'tutelage[demo]'") from error
    if file.suffix.lower() not in _FORMATS:
        raise ConfigurationError(f"--plot {file}: name a file that ends in {', '.join(_FORMATS)}")
    if not os.path.isdir(file.parent):
        raise ConfigurationError(f"--plot {file}: there is no folder {file.parent}")
    if os.path.isdir(file):
        raise ConfigurationError(f"--plot {file} is a folder; name a file in it")
    return absolute_path("--plot", file)


def plot_histograms(name: str, statistics: dict[str, KeyStatistics], file: Path) -> None:
    """Draw a histogram of each key's values.

    Args:
        name: The source's name, which becomes the picture's title.
        statistics: The statistics of each key.
        file: The picture to write.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = dict(list(statistics.items())[:_MOST_HISTOGRAMS])
    if len(drawn) < len(statistics):
        say(f"--plot draws the first {len(drawn)} of {len(statistics):,} keys", error=True)
    figure, axes = pyplot.subplots(
        len(drawn), 1, figsize=(7, 2.2 * len(drawn)), squeeze=False, layout="constrained"
    )
    for axis, (key, found) in zip(axes[:, 0], drawn.items(), strict=True):
        counts, edges = found.histogram()
        if abs(edges).max() < _TICKS_BELOW:
            axis.stairs(counts, edges, fill=True)
        else:
            axis.stairs(counts, range(len(edges)), fill=True)
            axis.set_xticks([0, len(counts)], [f"{edge:.4g}" for edge in (edges[0], edges[-1])])
        shown = printable(key)
        if len(shown) > _MOST_TITLE_CHARACTERS:
            shown = f"{shown[:_MOST_TITLE_CHARACTERS]}..."
        # A key is any text: a dollar sign in it does not begin a formula.
        axis.set_title(
            f"{shown}: {found.count:,} values", fontsize=10, loc="left", parse_math=False
        )
        axis.set_yticks([])
    figure.suptitle(
        printable(os.fsencode(name).decode(errors="backslashreplace")), parse_math=False
    )
    try:
        with warnings.catch_warnings():
            # Characters that the font lacks are drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(file, dpi=120)
    except OSError as error:
        raise ConfigurationError(f"--plot {file} cannot be written: {error.strerror}") from error
    finally:
        pyplot.close(figure)

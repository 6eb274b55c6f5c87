"""The documentation site: Sphinx with MyST and furo. `make docs` builds it, with warnings as errors."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Tutelage"
author = "the Tutelage contributors"
project_copyright = author
version = release = installed_version("tutelage")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_extensions", "reference/_generated"]
nitpicky = False

# Docstrings write code in single backticks, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3
# Shell and properties blocks show placeholders such as ... which no lexer knows.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_title = "Tutelage"
html_static_path = ["_static"]
html_css_files = ["tutelage.css"]
html_copy_source = False
html_show_sourcelink = False

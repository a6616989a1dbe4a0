"""How Sphinx builds the manual: ``nox -s docs``."""

from kit import __version__

project = "The kit: fine-tune Aurora, reproducibly"
author = "The aurora-finetune-kit developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
autodoc_typehints = "none"
myst_heading_anchors = 3
exclude_patterns = ["examples"]
# Prompts and the output below them are shown, and not copied.
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = "The kit"
html_copy_source = False
html_show_sphinx = False

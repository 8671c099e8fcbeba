"""headrace: the whole language-model stack in one package, from tokens to production answers.

Importing it loads no torch and no web framework; `headrace.app` builds what a command needs.
"""

__version__ = "0.1.0"

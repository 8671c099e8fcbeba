"""headrace: the whole language-model stack in one package, from tokens to production answers.

Importing the package loads no torch and no web framework; `headrace.app` builds what a command needs.
"""

__version__ = "0.1.0"

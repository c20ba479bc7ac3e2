"""Every check and every error message of the package.

The messages name the argument, the rule in symbols and in numbers, what came, and the cure where it is known. Callers
import from the module where a check stands.
"""

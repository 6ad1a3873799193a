"""Registers the tiny environments when it is imported: for processes that no test has prepared."""

import tiny

tiny.register()

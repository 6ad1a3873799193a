"""Values as plain data: written to and read from files without running anybody's code."""

from sb3_o2o.plain.allowlist import UntrustedError, add_safe_globals

__all__ = ["UntrustedError", "add_safe_globals"]

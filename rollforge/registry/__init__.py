"""The plugin layer: hooks, registered parts, and the import of plugins."""

from rollforge.registry.commands import PluginCommand, plugin_commands
from rollforge.registry.hooks import BASES, GROUP, KINDS, Register, hookimpl
from rollforge.registry.registry import BUILT_IN, Part, Registry, registry

__all__ = [
    "BASES",
    "BUILT_IN",
    "GROUP",
    "KINDS",
    "Part",
    "PluginCommand",
    "Register",
    "Registry",
    "hookimpl",
    "plugin_commands",
    "registry",
]

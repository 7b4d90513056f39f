"""Plugins of the application: every module is one."""

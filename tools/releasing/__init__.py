"""Checks and files of a release that need no account: locks of packages, the wheel, the chart, bills of materials."""

"""Local mode: Ray, HAProxy and an API server as processes of this machine."""

"""The control loop: observe, plan, and act through ports."""

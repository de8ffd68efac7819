"""The control loop: observes, plans and acts through ports."""

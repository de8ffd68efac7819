"""Rollouts of real digit models on a real `sundog local up`, with an open loop of requests."""

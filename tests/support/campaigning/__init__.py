"""Rollouts of real digit models on a real `sundog local up`, under requests that come whether or not the last ones were answered."""

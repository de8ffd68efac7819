"""The part of a pass that is about an Experiment which names the ModelDeployment."""

"""The checks of `sundog doctor --cluster`: the release to install, an observation of the cluster, and the findings."""

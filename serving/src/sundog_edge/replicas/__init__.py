"""The replicas of each application, as HAProxy knows them."""

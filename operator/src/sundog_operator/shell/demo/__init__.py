"""`sundog demo`: two real models, a canary and a broken revision on this machine, with clients that never stop."""

"""Draw all pictures of recorded runs and tables: `make pictures`."""

from pictures import benchmarks, dashboard, rollback

for picture in (benchmarks, dashboard, rollback):
    picture.draw()

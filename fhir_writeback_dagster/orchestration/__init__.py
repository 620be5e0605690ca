"""What Dagster and `run` share: lanes, dispatch, partitions and the context of a run."""

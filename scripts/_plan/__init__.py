"""What a study will take, before it runs, and beside it what it took."""

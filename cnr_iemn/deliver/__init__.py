"""What a reader of one scan gets: its page, with what the networks looked at."""

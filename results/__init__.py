"""What came out and how it is read: record, store, statistics and table. Never imports torch."""

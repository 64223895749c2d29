"""One rank of one launch: opens the device, builds the work, measures it and reports."""

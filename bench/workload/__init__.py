"""What runs on a device: models, data, engines and the step. Imports torch; worker only."""

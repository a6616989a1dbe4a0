"""MLflow and provenance."""

"""The `person_retrieval` metric in the layout of an `evaluate` module and of a Hugging Face Space."""

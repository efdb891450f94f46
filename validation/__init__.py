"""The validation gate: Great Expectations suites over the decision log and every feature table of a deployment."""

"""The paper's tables and figures, on this project's logs."""

"""The network upstairs: its factors, their training and their flow, and the submersion to the end-to-end matrix."""

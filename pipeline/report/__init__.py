"""Tables, figures and pages of a study: reads rows, writes files. Knows no storage, no tracker and no
config."""

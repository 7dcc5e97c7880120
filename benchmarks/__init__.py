"""What parts of this repository cost, measured side by side: benchmarks/run.py.

`harness.py` measures and knows no subject; `subjects/` says what is measured and knows nothing of clocks. A new subject
is a file there whose `build(settings)` returns a `harness.Comparison`, and a line in the table of `run.py`.
"""

"""The pages that runs end in: self-contained HTML files, made from ``results.json``, that fetch nothing."""

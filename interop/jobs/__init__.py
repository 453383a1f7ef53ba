"""One file for each program, run in that program's environment; see :mod:`interop.peers`.

    PYTHON JOB FOLDER

reads ``FOLDER/request.json``: the model, rows of token ids, and cases with their block and file; and
``FOLDER/added.npz``: what each case adds. It writes ``CASE.npy``, the logits of all positions, row after row,
and ``answer.json``: the versions, and the continuations where it makes any. No job but TransformerLens's
imports anything of this project: the others run where it is not installed.
"""

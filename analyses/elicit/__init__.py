"""Every key on the same lock: what opens a problem, what it costs, and what nothing opens.

key         what a key is, and how two are turned at once
keys/       one file each
decodings   how a reply is made of one path or of several
replies     the work, cut into tasks, and its records
table       the columns of the comparison
run         the whole question
"""

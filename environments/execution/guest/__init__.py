"""What runs inside bubblewrap's walls: a supervisor, and the processes it trusts with nothing.

Standard library only, and little of it, for it is started anew for every run: `_ast` and `_socket` spare the imports of
their comfortable twins. The host sends it compiled. Four parts, each a process:

- the **supervisor** reads the job and writes results; it alone holds the pipes to the host, and runs no one's code;
- the **nursery** was forked before the job was read, so whatever it forks has no test in its memory;
- a **candidate** is forked from the nursery, loads the program and answers calls with plain data;
- a **judge** is forked from the supervisor for one test; it calls the candidate by name and does the comparing.
  A test of literals, `assert f(1, [2]) == 3`, needs no judge: the supervisor compares, and still runs no one's code.

Candidate and judge lock themselves in before they run a line: resource limits, and a system call filter that cannot
be taken off. A candidate that digs through its own interpreter finds a socket on which it may give answers, right or
wrong.
"""

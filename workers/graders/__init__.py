"""Graders: each compares one extracted answer with one gold answer.

A grader is a module that has `grade(gold, answer) -> Judgement`. One whose name in the job carries an
argument, as `regex:PATTERN` does, has `make(argument)` instead, which returns such a function and raises
ValueError for an argument that it cannot use. `combine.py` makes one grader of those that a job names,
`serve.py` is the process they run in, `guard.py` what that process refuses to do, and `process.py` the
handle that the pool holds on it. Nothing that runs in a grader's process imports torch, ray or vllm.
"""

"""Graders: each compares one extracted answer with one gold answer.

A grader is a module that has `grade(gold, answer) -> Judgement`. One whose name in the job carries an
argument, as `regex:PATTERN` does, has `make(argument)` instead, which returns such a function and raises
ValueError for an argument that it cannot use. `combine.py` makes one grader of those that a job names, and
`guard.py` is what their process refuses to do; that process and the pool's handle on it are in `workers/grading`.
Nothing that runs in a grader's process imports torch, Ray or an engine.
"""

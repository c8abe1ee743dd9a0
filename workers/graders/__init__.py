"""Graders: each compares one extracted answer with one gold answer.

A grader is a module with `grade(gold, answer) -> Judgement`. `judge.py` combines them, `serve.py` is
the process they run in, and `process.py` is the handle the pool holds on such a process. Nothing that
runs in a grader's process imports torch, ray or vllm.
"""

"""What mathematical answers say in words: that there is no solution, for which numbers something holds."""

from __future__ import annotations

import re

from workers.graders.mathematics.kinds import EMPTY, REALS, Kind, NumberSet, Relation, Scalar, Words

_SAID: tuple[tuple[Kind, str], ...] = (
    (
        EMPTY,
        """
no solution; no solutions; no real solution; no real solutions; there is no solution; there are no solutions
there is no real solution; there are no real solutions; the equation has no solution; the equation has no solutions
the equation has no real solution; the equation has no real solutions; the system has no solution
the system has no solutions; it has no solution; has no solution; has no solutions; no solution exists
no solutions exist; solution does not exist; no such x exists; no roots; no real roots; no x; no real x
no solution in the real numbers; no solutions in the real numbers; no solution over the reals; no real number solutions
none; emptyset; empty set; the empty set; null set; the null set; the solution set is empty
""",
    ),
    (
        REALS,
        """
all real numbers; all reals; every real number; any real number; the real numbers; real numbers; the reals
the set of real numbers; the set of all real numbers; set of all real numbers; set of real numbers; all real x
x is any real number; x is a real number; x can be any real number; all real values; all real values of x
every real x; any real x; all x; for all real x
""",
    ),
    (
        Relation(("x", "0"), (">",)),
        "all positive real numbers; all positive reals; the positive real numbers; the positive reals",
    ),
    (
        Relation(("x", "0"), ("<",)),
        "all negative real numbers; all negative reals; the negative real numbers; the negative reals",
    ),
    (
        Relation(("x", "0"), ("\\ge",)),
        "all nonnegative real numbers; all non-negative real numbers; all nonnegative reals; all non-negative reals",
    ),
    (
        NumberSet("Z"),
        "all integers; every integer; any integer; the integers; the set of integers; the set of all integers",
    ),
    (NumberSet("Q"), "all rational numbers; the rational numbers; all rationals"),
    (NumberSet("C"), "all complex numbers; the complex numbers"),
    (Scalar("\\infty"), "positive infty; plus infty"),
    (Scalar("-\\infty"), "negative infty; minus infty"),
    (Words("does not exist"), "dne; does not exist; the limit does not exist; it does not exist"),
    (Words("undefined"), "undefined; not defined; is undefined; it is undefined"),
    (
        Words("infinitely many"),
        "infinitely many; infinitely many solutions; there are infinitely many solutions; infinite solutions",
    ),
)
PHRASES = {phrase.strip(): kind for kind, said in _SAID for phrase in re.split("[;\n]", said.strip())}
"""What phrases mean, in small letters."""
SAID_IN_WORDS = frozenset(kind for kind, _ in _SAID if isinstance(kind, Words))
"""What is said in words alone, in several ways."""
FOR_ALL = re.compile(
    r"\s*,?\s*(?:for|where|with|\\forall)\s*(?:(?:all|every|any|each)\s+)*(?:(?:real|complex)\s+)?(?:numbers?\s+)?"
    r"\$?[a-z]?\$?(?:\s*\\in\s*\\mathbb\{[RC]\})?(?:\s+is (?:(?:any|a) )?real(?: number)?)?\s*"
)
"""What adds nothing to a formula: "for all real x"."""
REAL_VARIABLE = re.compile(r",\s*(?:(?:where|for|with)\s+)?[a-z](?:\s*,\s*[a-z])*\s*\\in\s*\\mathbb\{[RC]\}\s*$")
"""As behind "y = 2x, x \\in \\mathbb{R}"."""
LEADING = re.compile(
    r"(?:(?:therefore|thus|so|hence|then|finally|consequently),?\s+|both\s+"
    r"|the\s+(?:(?:solution|ordered|open|closed|half-open|column|row)\s+)*"
    r"(?:sets?|intervals?|points?|pairs?|triples?|tuple|matrix|vector|lines?|equation|function|union)\s+(?:of\s+)?(?!(?:is|are|has|equals)\b)"
    r"|(?:all|every|any)\s+(?:real\s+)?(?:numbers?\s+)?(?:values of\s+)?[a-z]?\s*"
    r"(?:such that|with|where|for which)\s+)",
    re.IGNORECASE,
)
"""What may stand before an answer and adds nothing to it."""
BOUND = re.compile(
    r"(?:(?:all|any|every)\s+)?(?:(?:real\s+)?numbers?|reals|(?:real\s+)?values? of (?P<of>[a-z])|(?P<name>[a-z]))"
    r"(?:\s+[a-z])?(?:\s+(?:is|are|that are|which are|must be|can be))?\s+"
    r"(?P<how>less than or equal to|at most|no more than|not more than|less than|smaller than|"
    r"greater than or equal to|at least|no less than|not less than|greater than|more than|larger than)\s+"
    r"(?P<end>[^a-zA-Z]+|.{1,3})"
)
"""An inequality in words."""
HOW = {
    **dict.fromkeys(["less than or equal to", "at most", "no more than", "not more than"], "\\le"),
    **dict.fromkeys(["greater than or equal to", "at least", "no less than", "not less than"], "\\ge"),
    **dict.fromkeys(["less than", "smaller than"], "<"),
    **dict.fromkeys(["greater than", "more than", "larger than"], ">"),
}
EXCEPT = re.compile(
    r"(?:all|every|any|the)\s+(?:the\s+)?(?:reals?(?:\s+(?:numbers?|values?))?|x|values? of x|real x)(?:\s+of x|\s+x)?"
    r",?\s+(?:except|other than|excluding|but|besides)\s+(?:for\s+)?(?:[a-z]\s*=\s*)?(.+)",
    re.IGNORECASE,
)
"""All real numbers but some."""
_POSITIVE = r"(?:positive|non-?negative|natural|counting)"
WHOLE = re.compile(
    r"[\s,;(]*(?:(?:for|where|with|and)\s+)?(?:(?:some|any|all|every|each|an|a)\s+)?"
    rf"(?:(?P<few>{_POSITIVE}\s+)?(?:integers?|whole numbers?|(?P<natural>natural numbers?))\s+)?(?P<name>[a-z])"
    r"(?:\s*\\in\s*(?:\\mathbb\{(?P<set>[ZN])\}|(?P<plain>[ZN])(?![A-Za-z]))\s*(?P<mark>(?:[\^_]\s*(?:\{[^{}]*\}|[-+*0-9]))*)"
    rf"|\s+(?:is|are)\s+(?:an?\s+|any\s+)*(?P<kind>{_POSITIVE}\s+)?(?:integers?|(?P<natural2>natural numbers?))"
    r"|(?<=integer \w)|(?<=integers \w)|(?<=numbers \w)|(?<=number \w))\s*\)?"
)
"""What says that a letter is any whole number, or any that is not negative."""
FEW = ("mark", "few", "natural", "kind", "natural2")
"""Its groups that say that it is not negative."""

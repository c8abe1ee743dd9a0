"""What stands before a number in an answer: whether it says that this number is the answer, that it is not, or neither.

"Ann has", "a total of", "Total cost:" and "only" lead to the answer. "Anything but" denies it and "at least" only
bounds it: both are evidence that a single number was not given. Anything else ("a multiple of", "Step") is not
understood.
"""

from __future__ import annotations

import re
from typing import Literal

Said = Literal["stated", "denied", "unclear"]

_DENYING = """
not never cannot cant wont isnt arent neither nor except excluding excludes exclude excluded wrong incorrect
incorrectly false falsely impossible unlikely hardly scarcely barely untrue invalid mistaken mistakenly unequal refuse
deny denies denied doubt doubts doubtful disagree
"""
DENYING = frozenset(_DENYING.split())
_OTHER_THAN = re.compile(
    r"\b(?:anything|everything|all|any number|any integer|any value|none|no one) but\b|\b(?:other|rather"
    r"|different) than\b"
    r"|\b(?:instead of|different from|far from|apart from|aside from|excluded?:?|ruled out)\b",
    re.IGNORECASE,
)
_BOUNDS = re.compile(
    r"(?:\b(?:at (?:the )?(?:least|most|minimum|maximum|best|worst)|(?<!adds )(?<!add )(?<!sums )(?<!added )up to"
    r"|(?:more|less|fewer|greater|larger"
    r"|smaller|bigger|higher"
    r"|lower|older|younger|longer|shorter|later|earlier|sooner) than(?: or equal to)?|between|above|below|over"
    r"|under|beyond"
    r"|exceed(?:s|ing|ed)?|no (?:more|less|fewer|later|sooner|earlier) than|a (?:minimum|maximum) of"
    r"|not (?:more|less|fewer) than"
    r"|minimum|maximum|within|inside|outside)|[<>≤≥]|\\[lg](?:e|eq|t|eqslant)) ?\Z",
    re.IGNORECASE,
)
_UNCLEAR = """
maybe perhaps possibly probably likely might may if unless whether when assuming suppose supposing guess guessing
think thought unsure almost nearly seemingly apparently close closer nearest near previous previously earlier
initially originally initial original double doubled doubling twice thrice triple tripled quadruple quintuple half
third quarter squared square cube cubed root reciprocal inverse factorial factor factors divisor divisors multiple
multiples power powers exponent logarithm log ln sin cos tan sec csc cot exp sqrt gcd lcm mod modulo plus times
divided multiplied negation opposite complement absolute remainder quotient predecessor successor before after until
till past solve calculate compute evaluate find show prove sum product difference without minus short prime digits
either-or example assume assumes assumed hypothetically hypothetical
"""
UNCLEAR = frozenset(_UNCLEAR.split())
_OPERATIONS = """
multiple sum product difference remainder quotient gcd lcm root square cube half third quarter factor divisor inverse
reciprocal logarithm
"""
_RESULTS = frozenset(_OPERATIONS.split())
"""Of which something is said where a verb follows ("The sum is"); otherwise they change a number ("The sum of")."""
_COPULAS = frozenset(["is", "are", "was", "were", "be", "equals", "becomes"])
_COMMAND_WORDS = """
add see find count take use give get read pick keep leave make say answer write run walk buy sell pay want collect
    choose fill draw build play start wait watch include
"""
_COMMANDS = frozenset(_COMMAND_WORDS.split())
_OBJECTS = frozenset(["him", "her", "them", "me", "us", "you", "it", "everyone", "everybody", "each"])
_ADVERBS = """
exactly only just precisely about approximately approx around roughly circa altogether now still also then thus so
hence therefore a an the another additional extra whopping mere full all total simply actually indeed clearly finally
overall again ok okay well obviously equally respectively surely certainly definitely currently either even some exact
complete is-about my our their his her your its
"""
_ADVERB = frozenset(_ADVERBS.split())
_STATING = """
dropped drops fell falls rose rises increased increases decreased decreases declined reduced climbed jumped shrank
gains improved changed moved is are was were be been being am equals equal equaled becomes became become remains
remain remained has have had having get gets got gotten need needs needed take takes took taken make makes made cost
costs pay pays paid save saves saved earn earns earned spend spends spent sell sells sold buy buys bought eat eats ate
leave leaves left give gives gave given receive receives received use uses used used require requires required contain
contains contained hold holds held include includes weigh weighs weighed measure measures measured drive drives drove
travel travels traveled travelled walk walks walked run runs ran read reads write writes wrote owe owes owed own owns
owned keep keeps kept win wins won score scores scored lose loses lost gain gains gained collect collects collected
find finds found pick picks picked plant plants planted bake bakes baked cook cooks cooked produce produces produced
yield yields yielded complete completes completed finish finishes finished charge charges charged donate donates
donated raise raises raised drink drinks drank swim swims swam fly flies flew see sees saw count counts counted want
wants wanted lay lays laid grow grows grew work works worked sleep sleeps slept play plays played fill fills filled
fit fits contribute contributes contributed invest invests invested borrow borrows borrowed lend lends lent serve
arrive arrives arrived
serves served carry carries carried bring brings brought sees attend attends attended last lasts lasted say says said
answer answers obtain obtains obtained reach reaches reached total totals totaled totalled add adds added start starts
started stay stays stayed wait waits waited watch watches watched see deliver delivers delivered consume consumes
consumed build builds built hit hits catch catches caught feed feeds fed climb climbs climbed afford
"""
STATING = frozenset(_STATING.split())
_HEADS = """
total distance cost price average mean median mode length width height area volume weight age speed rate amount profit
value score time size mass perimeter answer result probability count duration temperature balance revenue salary
population capacity depth radius diameter circumference angle measure fraction share income savings bill budget fee
tax discount sales pay payment wage change loss percentage percent proportion ratio range period term temperature
energy force power difference increase decrease reduction gain rise drop surplus deficit growth rest density pressure
current voltage resistance frequency charge slope maximum minimum expense expenses earnings payment
"""
_HEAD = frozenset(_HEADS.split()) - {"power", "range", "ratio", "maximum", "minimum"}
_LABELS = """
answer total result value sum number no cost price level day grade year floor room week month place position rank row
seat bus lane gate house apartment channel verse door team player solution conclusion ans output
"""
_LABEL = frozenset(_LABELS.split())
_TO = re.compile(
    r"\b(?:comes?|came|amounts?|amounted|adds? up|added up|sums?(?: up)?|equal|equals|equates|reduces"
    r"|simplifies|evaluates"
    r"|rounds?|rounded|works out|corresponds|increases?|increased|decreases?|decreased|reduced|rises?|rose"
    r"|drops?|dropped|falls?"
    r"|fell|grows?|grew|goes|went|down|leads|due|sets?|needs|need|set) (?:up |down |out )?to\Z",
    re.IGNORECASE,
)
_PREPOSITIONS = frozenset(["for", "in", "by", "at", "with"])
_AFTER = re.compile(
    r"\b(?:arrives?|arrived|meets?|met|finish(?:es|ed)?|stops?|stopped|ends?|ended|returns?|returned) after\Z"
)
"""What happens after so long takes so long."""
_META = re.compile(r"\b(?:answer|number|result|value) (?:has|have|contains|consists|is made)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[,;:!?]\s|\.\s|\b(?:so|thus|therefore|hence|then|and|that|which)\b", re.IGNORECASE)
MONTH = re.compile(r"\bMay\b(?! (?:be|have|not|well|also)\b)")
"""A month, and no doubt."""
_FINDING = re.compile(r"\b(?:we|i|you) (?:find|found|calculate|compute|show|see|know|deduce) that\b")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def said(lead: str) -> Said:
    """What the text before a number says of it."""
    if not (lead := lead.strip(" \"'([{*_")):
        return "stated"
    low = (lead[:3] + MONTH.sub("", lead[3:])).lower()
    low = _AFTER.sub("takes", low)
    if low[-1] in "-+/^":
        return "unclear"
    low = _FINDING.sub(" that", low) if "that" in low else low
    if _BOUNDS.search(low):
        return "denied"
    colon = low.endswith((":", "=", "->"))
    clauses = [low] if colon else _CLAUSE.split(low)
    last = clauses[-1].strip()
    words = _WORD.findall(last)
    everything = set(_WORD.findall(low))
    if words and words[-1] in _COPULAS:
        everything -= _RESULTS
    if words[-1:] == ["of"] and words[-2:-1] and words[-2] in _HEAD:
        everything.discard(words[-2])
    if denies(words) or _OTHER_THAN.search(last):
        return "denied"
    if denies(everything) or _OTHER_THAN.search(low) or everything & UNCLEAR or _META.search(low):
        return "unclear"
    if re.search(r"[^\w\s.,;:!?'\"()\-=>→*#$&№%/]|[0-9_]", low):
        return "unclear"
    if colon or last.endswith(("#", "№")):
        return "stated"
    if low.endswith(",") and words == ["no"]:
        return "unclear"
    if words and (words[-1] in _OBJECTS or _names_someone(lead)) and set(words[-3:-1]) & STATING:
        return "stated"  # "It will take Ann 7 hours"
    return "stated" if _states(words, last) else "unclear"


def _names_someone(lead: str) -> bool:
    return re.search(r"\b[A-Z][a-z]+\Z", lead) is not None


def denies(words: list[str] | set[str]) -> bool:
    """Whether a word among these denies."""
    return any(word in DENYING or word.endswith("n't") for word in words)


def _states(words: list[str], clause: str) -> bool:
    """Whether a clause without denials and hedges ends as one that states a number."""
    if words[-1:] and words[-1] in _LABEL:
        return True
    while words and words[-1] in _ADVERB:
        words = words[:-1]
    if not words:
        return True
    last = words[-1]
    if last == "of":
        return words[-2:-1] != [] and words[-2] in _HEAD
    if last == "to":
        return bool(_TO.search(re.sub(r"(?: (?:about|exactly|only|just|approximately|around|roughly))+\Z", "", clause)))
    if last in _PREPOSITIONS:
        return bool(STATING & set(words[:-1])) and words[0] != "solve"
    if last in _LABEL or (last in _HEAD and len(words) <= 4):
        return True
    if words[0] in _COMMANDS:
        return False
    return last in STATING or bool(re.fullmatch(r"[a-z]{3,}(?:'s|'re|'ll be)|it's|there's|that's|he's|she's", last))

"""Which option a text names: "B", "(B) Paris", "I think it is B", "B, not C", "B is wrong", "B or C".

What is not surely a choice is no choice: "A dog" names no option A, and "I, as a language model" no option I.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from workers.graders.exact import key
from workers.graders.reading.normalise import normalise

MAX_LENGTH = 1000
_ROMAN = r"(?i:VIII|VII|III|VI|IV|IX|II)"
_NAME = rf"(?:{_ROMAN}|[A-Za-z]|[0-9]{{1,2}}(?![0-9.,:/]*[0-9]))"
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|then|well|ok|okay|clearly|obviously|in conclusion|in short|finally|overall"
    r"|only|just|definitely|certainly|surely|simply)\b[,:]? +"
    r"|(?:(?:the|my|our|your) )?(?:(?:final|correct|right|best|most likely|likeliest|only|true|chosen|selected) )*"
    r"(?:answer|options?|choice|pick|selection|letter|statement|response|alternative)(?: choice| option| letter| here)?"
    r"(?: (?:is|must be|would be|should be|will be|has to be)(?: therefore| thus| clearly| definitely| simply)?\b"
    r"|(?= ?[:(\[{]| +\S))(?: that)?[ :=-]*"
    r"|ans[.:=]+ *|i(?:'m| am) (?:quite |very |fairly )?(?:confident|sure|certain)(?: that)?[: ]+"
    r"|(?:this|that|it)(?:'s| is| must be| would be| has to be| should be)(?: therefore| clearly| definitely)? +"
    r"|(?:(?:i|we) (?:would |will )?(?:think|believe|choose|pick|select|chose|picked|say|answer|conclude|go with"
    r"|am going with)|(?:i|we)'(?:d|ll) (?:say|choose|pick|go with|answer|select)|i'm going with"
    r"|(?:choose|pick|select|select(?:ing)?|choosing|going with))(?: that)?[: ]+"
    r"|(?:(?:la|le|el|il|a|o|die) )?(?:réponse|respuesta|risposta|resposta|antwort|ответ|cevap|đáp án|odpowiedź|svar)"
    r"(?: (?:correcta?|correcte|corretta|final|finale|richtige))?(?: ?[:=-] ?"
    r"| (?:es|est|ist|è|é|lautet|är|to|là) (?:la |die )?)"
    r"|(?:正确|正確)?(?:答案|答え|正解|解答|정답|답)\s?(?:应该是|就是|是|为|為|は|은|는|:)?\s?:?\s?|(?:我)?(?:应该)?[选選](?:项|項|择|擇)?\s?:?\s?)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    rf"(?:[(\[{{<\"'] ?(?P<enclosed>{_NAME}) ?[)\]}}>\"'][:.,]?"
    rf"|(?P<name>{_NAME})(?: ?[)\]}}:,;]|\.(?!\w)| ?-+>?(?= )|(?= ?[(\[])|(?=\s*\Z)"
    rf"| ?(?:=>|→|⟶|≈|=(?= ?[-$\\(\"0-9]))| [/|](?= )(?! ?[(\[]?(?:{_ROMAN}|[A-Z])(?!\w))))(?P<rest>.*)",
    re.DOTALL,
)
_SAID = re.compile(
    rf"(?P<name>{_NAME})(?P<rest>(?: ?,| \(| -)? *"
    r"(?:(?:is|was|because|since|as|only|alone|would|must|it|not|instead|over|and not|rather than)\b).*)",
    re.DOTALL,
)
_TOKEN = re.compile(rf"(?<![\w'])(?P<name>{_ROMAN}|[A-Z]|[0-9]{{1,2}})(?![\w'])(?!\.[0-9])")
_RIGHT = (
    r"(?:(?:is|was|would be|must be) )?(?:(?:indeed|clearly|definitely|surely|certainly|the|a|an|therefore|my|our) )*"
    r"(?:(?:only|best|final|most|correct|right|true|appropriate|accurate|suitable|valid|likely|logical) ?)+"
    r"(?:answer|option|choice|one|statement|response|letter|alternative)?(?: (?:here|of these|of all))?"
)
_REJECTED = re.compile(  # a remark behind a name: "B (wrong)", "B - ruled out"; "B. Wrong" has the text of an option
    r"\s*[,(\[-]?\s*(?:(?:this|that|it|which) )?(?:(?:is|was) )?(?:clearly |definitely )?"
    r"(?:(?P<no>not(?: (?:right|correct|true|included))?|wrong|incorrect|eliminated|excluded|ruled out|rejected)"
    r"|false|untrue|impossible|invalid|no)[\s)\].!]*",
    re.IGNORECASE,
)
_WORD_FIRST = re.compile(r"\W*[^\W\d_]{2}")
_MARRED = re.compile(r"\s*[✗✘❌×¬~±≠≈≤≥!€£¥₹]")
"""Begins what is not simply what follows."""
_AFTER = re.compile(
    rf"[\s,;:.!()-]*(?:(?:{_RIGHT}|(?:is|was) (?:the|my|our) (?:final )?(?:answer|choice|pick)|only|alone"
    r"|it is|is it|definitely|certainly|obviously|clearly|of course|for sure|surely)\b[\s,;:.!)]*)?"
    r"(?P<more>(?:(?:because|since|as|due to|given that|for the reason|which|and not|not|rather than|instead of|over"
    r"|the others?|all others?|the rest|thanks|by|so)\b.*)?)",
    re.DOTALL | re.IGNORECASE,
)
_OTHER_DENIED = re.compile(  # right behind a name: "(A is wrong)", "- A and C are distractors"
    rf"[\s,;.(\[-]*(?:option |choice )?[(\[]?(?P<name>{_NAME})[)\]]?"
    rf"(?:(?:,|,? (?:and|or)) [(\[]?(?P<second>{_NAME})[)\]]?)?"
    r" (?:is|are|was|were|would be)(?: (?:clearly|obviously|simply|just|an?|the|both))*"
    r" (?:wrong|incorrect|false|untrue|invalid|impossible|distractors?|traps?|decoys?|ruled out|excluded|eliminated"
    r"|not (?:correct|right|true|valid|possible))[\s.!)\]]*",
    re.IGNORECASE,
)
_OTHER_TOO = re.compile(  # "B. C is right too", "B - C works as well"
    rf"[\s,;.(\[-]*(?:option |choice )?[(\[]?(?P<name>{_ROMAN}|[A-Z])[)\]]?(?:,? (?:too|also|as well)\b"
    r"| (?:is|was|would|could|can|might|may|seems|works|applies|fits|looks)\b)"
)
_NOT_OTHER = re.compile(
    rf"[\s,;(-]*(?:and |but )?(?:not|rather than|instead of|never)\s+(?:option |choice |the )?"
    rf"[(\[]?(?P<name>{_NAME})[)\]]?"
    rf"(?:\s*(?:,|or|and|nor)\s*[(\[]?{_NAME}[)\]]?)*(?![\w'])\)?[\s.!;,]*",
    re.IGNORECASE,
)
_DENYING = re.compile(
    r"\b(?:not|n't|never|neither|nor|cannot|isn't|can't|wasn't|wouldn't|doesn't|incorrect|wrong|false|untrue|invalid"
    r"|ruled out|rule out|excluded?|eliminated?|anything but|everything but|all but|except|impossible|rejected?)(?!\w)",
    re.IGNORECASE,
)
_HEDGING = re.compile(
    r"\b(?:maybe|perhaps|probably|possibly|might|may|could|guess(?:ing)?|unsure|not sure|not certain|i think|i believe"
    r"|i suppose|seems?|likely|unless|if|or not|but|however|although|though|wait|actually|sorry|correction|hmm|tempting"
    r"|almost|partly|sometimes|depends)\b|\?",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:i|we)(?:,[^,]{0,60},)? (?:can ?not|can't|do not|don't|am not|am unable|could not|couldn't|have no)\b"
    r"|\b(?:i'm not sure|don't know|do not know|as an ai|as a language model|no idea)\b"
    r"|\bi, as an? ",
    re.IGNORECASE,
)
_AND = r"and/or|and|or|as well as|along with|together with|plus|versus|vs\.?"
_SEPARATOR = rf"(?:(?:{_AND}|nor)\b|[/,&+]|-+>|→|\\rightarrow|\\to\b)"
_MAYBE = r"(?:(?:maybe|perhaps|possibly|also|even|option|choice|answer) )*"
_ANOTHER = re.compile(  # "B) Paris or C) London"; a text may speak of other options: "D) both A and B"
    rf"(?:^|[\s)\].,]){_SEPARATOR}\s*{_MAYBE}(?:[(\[]{_NAME}[)\]]|(?:{_ROMAN}|[A-Z]|[0-9]{{1,2}})[)\].:](?=\s|\Z))"
)
_OR_ANOTHER = re.compile(  # right behind a name: "(B) or C", "(B)(C)", "B (possibly C)", "B... or C"
    rf"[\s.,;…(\[-]*(?:{_SEPARATOR}\s*{_MAYBE}|(?:(?i:maybe|perhaps|possibly|alternatively|otherwise|also)\b,?\s*)+"
    rf"|(?<=[(\[])|(?=[(\[]))[(\[]?(?P<name>{_ROMAN}|[A-Z]|[0-9]{{1,2}})(?![\w'’])(?! of\b)"
)
_SPEAKS_OF_OTHERS = re.compile(r"\W*(?:both|either|neither|all|none|only)\b", re.IGNORECASE)
_EXPLAINS = re.compile(
    r"\s*(?:i\.e\.|namely|that is|meaning|viz\.|the (?:first|second|third|fourth|fifth|last) (?:one|option|choice)"
    r"|(?:both|neither|all|none)\b(?!.*\b(?:possible|plausible|work|apply|fit|options?|choices?|answers?)\b))",
    re.IGNORECASE,
)
_TAKES_BACK = re.compile(
    r"(?:^\s*|[-,;.(]\s*)(?:(?:wait|no|hmm|oh)\s*[,.!-]|actually\b|sorry\b|correction\b|scratch that\b"
    r"|i (?:think|guess|suppose|believe)\W*\Z|(?:but )?i'm not sure\b|not sure\b)|\?\W*\Z",
    re.IGNORECASE,
)
_MANY = re.compile(
    rf"(?P<how>both|either|neither|all of|options?|choices?|answers?)?[ :]*[(\[]?(?P<first>{_NAME})[)\]]?[.,:]?"
    rf"(?P<others>(?:\s*+(?:(?:,?+ ?+(?:{_AND})\b|[,/&+;]|-+>|→)\s*"
    r"(?:(?:maybe|perhaps|possibly|options?|choices?) )*|(?=[(\[]))"
    rf"[(\[]?(?<![\w'])(?:{_NAME})(?![\w'])[)\].]?)++)(?: (?:only|alone))?"
    r"(?: (?:are|is)?\s?(?:both )?(?:correct|right|true|possible))?\??",
    re.IGNORECASE,
)
_RUN = re.compile(r"(?=[A-Z]{2,10}\Z)A?B?C?D?E?F?G?H?I?J?")
_EDGES = re.compile(
    r"\A[^\w(\[{<'\"-]+|[\s!。、，,;:…✅☑✔」』】》]+\Z|(?<=[A-Z])(?:项|項|です|입니다)\Z|(?<=[A-Z])\s?\.{3}\Z"
)

_PRONOUN = re.compile(
    r"i(?:'|,? as\b|,? (?!is\b|was\b|because\b|since\b|only\b|alone\b|and\b|or\b|not\b)[a-z]+\b|,(?! ))", re.IGNORECASE
)

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ORDINAL = re.compile(
    rf"(?:the )?(?P<ordinal>{'|'.join(_ORDINALS)})"
    rf" (?:option|choice|answer|one)(?: ?[,:(-] ?| is )\(?(?P<name>{_NAME})\)?",
    re.IGNORECASE,
)

Stance = Literal["chosen", "several", "denied", "refused", "unclear"]


@dataclass(frozen=True, slots=True)
class Option:
    """What a text says of options. Example: "(b) Paris" is Option("chosen", ("B",), "paris")"""

    stance: Stance
    names: tuple[str, ...] = ()
    """The options named, in capitals: letters, numbers or Roman numerals. None where a text alone is chosen."""
    text: str = ""
    """What is chosen, as `exact` compares texts; empty where there is a name alone."""
    joined: bool = False
    """Whether several are named as one answer ("A and C"), not as alternatives ("A or C")."""
    marked: bool = True
    """Whether a name that stands before a text is marked as one: "(B) Paris", "B. Paris", "B - Paris", and not the
    beginning of a formula, as in "f(x) = x^2" and "x - 3"."""


def parse(text: str) -> Option:
    """What `text` says, with each doubt as a stance of its own."""
    if len(text) > MAX_LENGTH:
        return Option("unclear")
    text = normalise(text)
    if _MARRED.match(text) or not (text := _bare(text)):
        return Option("unclear")
    spoken = text
    for _ in range(4):
        lead = _LEAD.match(text)
        if lead is None or not text[lead.end() :].strip():
            break
        text = _bare(text[lead.end() :])
    text = _without_ordinal(text)
    if (several := _several(text)) is not None:
        return several
    one = _one(text)
    if one is not None and one.stance in ("chosen", "denied"):
        return one
    return _clauses(text) or one or _other(spoken, text)


def _bare(text: str) -> str:
    """`text` without symbols and punctuation around it that mean nothing beside an option."""
    for _ in range(3):
        text = _EDGES.sub("", text.strip()).strip().strip("*$`").strip()
        if text.startswith(("[[", "{{", "<<", "((")) and text.endswith(("]]", "}}", ">>", "))")):
            text = text[2:-2]
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
    return text.removeprefix("- ").strip()


def _without_ordinal(text: str) -> str:
    """The name alone of "the third option, C" or "third choice: 3", where both say the same."""
    match = _ORDINAL.fullmatch(text)
    if match is None:
        return text
    number = _ORDINALS.index(match["ordinal"].lower())
    return match["name"] if match["name"].upper() in ("ABCDEFGHIJ"[number], str(number + 1)) else text


def _several(text: str) -> Option | None:
    """Where text is nothing but several names: "A and C", "(A), (C)", "A/B", "ACE"."""
    if _RUN.fullmatch(text):
        return Option("several", tuple(text), joined=True)
    match = _MANY.fullmatch(text)
    if match is None or _DENYING.match(text):
        return None
    listed = f"{match['first']} {match['others']}"
    names = tuple(_upper(name) for name in re.findall(rf"(?<![\w'])(?:{_NAME})(?![\w'])", listed) if name != "or")
    if len(set(names)) < 2 or len({name.isdigit() for name in names}) > 1:  # "(B) 42"
        return None
    apart = re.search(r"\bor\b|/", match["others"]) or (match["how"] or "").lower() in ("either", "neither")
    return Option("several", tuple(dict.fromkeys(names)), joined=not apart)


def _one(text: str) -> Option | None:
    """Where the text begins with one name, and what follows it only supports it or is the option's text."""
    match = _SAID.fullmatch(text) or _LABEL.fullmatch(text)
    if match is None:
        return None
    groups = match.groupdict()
    name, rest = _upper(groups.get("enclosed") or groups["name"]), match["rest"]
    if name == "I" and _PRONOUN.match(text):
        return None
    labelled = match.re is _LABEL and bool(rest.strip())
    separator = text[: len(text) - len(rest)][-1:] if rest else ""
    if separator not in ".:)]}" and (rejected := _REJECTED.fullmatch(rest)) is not None:
        return Option("denied" if rejected["no"] else "unclear", (name,))
    if (other := _NOT_OTHER.match(rest)) is not None and _upper(other["name"]) != name:
        rest = rest[other.end() :]
        if not rest:
            return Option("chosen", (name,))
    if (other := _OTHER_DENIED.fullmatch(rest)) is not None:
        denied = {_upper(one) for one in (other["name"], other["second"]) if one}
        return Option("unclear", (name,)) if name in denied else Option("chosen", (name,))
    if (other := _OTHER_TOO.match(rest)) is not None and _upper(other["name"]) != name:
        return Option("unclear", (name,))
    another = _OR_ANOTHER.match(rest)
    if (another is not None and _upper(another["name"]) != name and _same_kind(another["name"], name)) or (
        _ANOTHER.search(rest) and not _SPEAKS_OF_OTHERS.match(rest)
    ):
        return Option("several", (name,))
    after = _AFTER.fullmatch(rest)
    if after is not None and not _changes(rest[: after.start("more")] + _reason_head(after["more"])):
        return Option("chosen", (name,))
    if re.match(r"[\s,:.-]*(?:is|was|can|cannot|isn't|would|must|should|are)\b", rest):
        return (
            Option("denied", (name,))
            if _DENYING.search(rest) and not _TOKEN.search(rest)
            else Option("unclear", (name,))
        )
    explained = _EXPLAINS.match(rest) is not None and not _TOKEN.search(rest) and not _changes(rest)
    shown = explained or separator not in ",;" or re.match(r"\s*[A-Z0-9$\\]", rest)
    if not labelled or _TAKES_BACK.search(rest) or not shown:
        return Option("unclear", (name,))
    return Option("chosen", (name,), key(rest), marked=_is_marked(groups, separator, rest))


def _is_marked(groups: dict[str, str | None], separator: str, rest: str) -> bool:
    if groups.get("enclosed") or separator in ").:]}":
        return True
    parted = separator in "->" or rest.startswith(" (")
    return parted and str(groups["name"]) in "ABCDEFGHIJ" and _WORD_FIRST.match(rest) is not None


def _reason_head(more: str) -> str:
    """A reason may say anything; only what takes the choice back counts."""
    return " ".join(re.findall(r"\b(?:maybe|perhaps|not sure|i think|i guess|wait|actually)\b|\?", more, re.IGNORECASE))


def _changes(rest: str) -> bool:
    return bool(_DENYING.search(rest) or _HEDGING.search(rest))


_SO = re.compile(r"\s*(?:and )?(?:so|hence|thus|therefore)\b[\s,:]*", re.IGNORECASE)


def _clauses(text: str) -> Option | None:
    """Clauses that each choose or deny one name: "Not B but C", "It is not B; it's D", "A is wrong, B is right"."""
    parts = [part for part in re.split(r"[;,.]\s+|\s+but\s+(?:rather\s+)?|\s+-+\s+", text) if part.strip()]
    chosen: set[str] = set()
    denied: set[str] = set()
    if _PRONOUN.match(text) or len(parts) > 6:
        return None
    for part in parts:
        names = {_upper(match["name"]) for match in _TOKEN.finditer(part)}
        if part.lstrip()[:1].lower() == "i" and re.match(r"\s*i(?:'|\s+[a-z])", part, re.IGNORECASE):
            names.discard("I")
        if (drawn := _SO.match(part)) is not None and denied and not chosen:
            part = part[drawn.end() :]  # "A is wrong, so B": what it comes to, and no reason
        elif re.match(r"\s*(?:because|since|as|which|so)\b", part) and (chosen or denied):
            break
        if len(names) != 1 or (_HEDGING.search(part) and not _DENYING.search(part)):
            return None
        if _DENYING.search(part):
            denied |= names
        elif _chooses(part):
            chosen |= names
        else:
            return None
    if len(chosen) == 1 and not chosen & denied:
        return Option("chosen", tuple(chosen))
    return Option("denied", tuple(denied)) if denied and not chosen else None


def _chooses(clause: str) -> bool:
    if re.fullmatch(rf"\s*\(?{_NAME}\)? (?:is|does|must|can)\W*", clause):  # "A is not right; B is"
        return True
    one = _one(_bare(_strip_leads(clause)))
    return one is not None and one.stance == "chosen"


def _strip_leads(text: str) -> str:
    for _ in range(3):
        if (lead := _LEAD.match(text)) is None:
            break
        text = text[lead.end() :]
    return text


def _other(spoken: str, text: str) -> Option:
    """A text that names no option at its beginning: a refusal, a denial, or an option's own text."""
    if _REFUSAL.search(spoken):
        return Option("refused", text=key(spoken))
    if re.match(r"(?:not|neither|anything but|everything but|all but|never)\b\s*\S", text, re.IGNORECASE):
        return Option("denied", text=key(text))
    return Option("chosen", text=key(text)) if key(text) else Option("unclear")


def _same_kind(one: str, other: str) -> bool:
    return one.isdigit() == other.isdigit()


def _upper(name: str) -> str:
    return name.upper().lstrip("0") or "0"

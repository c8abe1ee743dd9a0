"""Names of units and currencies, and whether two of them may be the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

_PREFIXES = """
tera T giga G mega M kilo k hecto h deci d centi c milli m micro μ nano n pico p femto f
"""
_BASES = """
meter metre m; gram gramme g; second sec s; liter litre L l; joule J; watt W; volt V; ampere amp A; newton N; pascal
Pa; hertz Hz; mole mol; coulomb C; farad F; ohm Ω; byte B; bit; electronvolt eV; calorie cal; tesla T; henry H; kelvin
K; watthour Wh; bar; becquerel Bq; sievert Sv; molar M; lumen lm; candela cd; lux lx
"""
_OTHERS = """
inch in inches; foot ft feet; yard yd; mile mi; ounce oz; pound lb; stone; ton tonne; pint pt; quart qt; gallon gal;
cup; tablespoon tbsp; teaspoon tsp; acre; hectare ha; minute min; hour hr h; day; week wk; month mo; year yr; decade;
century centuries; degree ° deg; celsius °C centigrade; fahrenheit °F; radian rad; north; south; east; west; am a.m
AM; pm p.m PM; knot; rpm; atmosphere atm; kilogram kilo kgs; milliliter cc; kilobyte KB; gram gm; light-year lightyear;
megabit Mb; gigabit Gb; terabit Tb; nickel; dime; furlong; fathom; league; parsec; fortnight; millennium millennia;
bushel; peck; gill; dram; carat; hundredweight cwt; horsepower hp; btu BTU; psi; torr; gauss; weber; decibel dB; erg;
dyne; quartercoin
"""
_MONEY = """
cent ¢; penny pence; dollar buck USD $ US$; euro EUR €; poundsterling GBP £ quid; yen JPY 円; rupee INR Rs Rs. ₹;
yuan CNY RMB 元; won KRW ₩; ruble rouble RUB ₽; peso MXN PHP ₱; dong VND ₫; shekel NIS ILS ₪; ringgit MYR RM; franc CHF
Fr Fr.; krona krone kronor kroner kr SEK NOK DKK; real reais BRL R$; lira TRY ₺; rand ZAR; zloty PLN zł zl; baht THB ฿;
hryvnia UAH ₴; naira NGN ₦; cedi GHS ₵; tenge KZT ₸; forint HUF Ft; rupiah IDR Rp; dirham AED; riyal SAR; koruna CZK
Kč; australiandollar A$ AU$ AUD; canadiandollar C$ CA$ CAD; singaporedollar S$ SGD; hongkongdollar HK$ HKD;
newzealanddollar NZ$ NZD; taiwandollar NT$ TWD; bitcoin BTC ₿; kenyanshilling KES KSh; pakistanirupee PKR;
srilankanrupee LKR; taka BDT ৳; colon CRC ₡; guarani PYG ₲; lari GEL ₾; tugrik MNT ₮; kip LAK ₭; colombianpeso COP;
chileanpeso CLP; argentinepeso ARS; sol PEN; egyptianpound EGP; qataririyal QAR; kuwaitidinar KWD; dinar JOD RSD; leu
RON; lev BGN; icelandickrona ISK; tanzanianshilling TZS; yensign ¥
"""
_QUOTIENTS = {
    "mph": "mile/hour",
    "kph": "kilometer/hour",
    "kmph": "kilometer/hour",
    "kmh": "kilometer/hour",
    "mpg": "mile/gallon",
    "mps": "meter/second",
    "fps": "foot/second",
}
SINGLE = frozenset("mgshlLNJWVAKCFTBM") | {"Ω", "°"}
"""Letters that, alone behind a number, name a unit and no factor."""


def _entries(text: str) -> Iterator[list[str]]:
    for entry in text.split(";"):
        yield entry.split()


def _tables() -> tuple[dict[str, str], dict[str, str]]:
    """Symbols, whose case counts, and words, whose does not, each with the unit's name."""
    symbols: dict[str, str] = {}
    words: dict[str, str] = {}
    pairs = _PREFIXES.split()
    prefixes = [("", ""), *zip(pairs[::2], pairs[1::2], strict=True)]
    for names in _entries(_BASES):
        for prefix, sign in prefixes:
            for name in names:
                if len(name) > 2 and name.islower() and name not in ("sec", "mol", "cal", "bar", "bit"):
                    words.setdefault(prefix + name, prefix + names[0])
                else:
                    symbols.setdefault(sign + name, prefix + names[0])
                    if len(name) > 2:
                        words.setdefault(prefix + name, prefix + names[0])
    for names in _entries(f"{_OTHERS};{_MONEY}"):
        for name in names:
            (words if len(name) > 2 and name.isalpha() and name.islower() else symbols)[name] = names[0]
    symbols["µm"] = "micrometer"
    return symbols, words


_SYMBOLS, _WORDS = _tables()
_FOLDED = {name.lower(): unit for name, unit in reversed(_SYMBOLS.items()) if len(name) > 1}
_CURRENCIES = frozenset(names[0] for names in _entries(_MONEY))
_BEFORE = sorted(
    (
        name
        for name, unit in _SYMBOLS.items()
        if unit in _CURRENCIES and unit != "cent" and not (name.isalpha() and name.islower())
    ),
    key=len,
    reverse=True,
)
MONEY = "|".join(
    re.escape(name) + ("(?![A-Za-z])" if name[-1].isalpha() and name.isascii() else "") for name in _BEFORE
)
MONEY += r"|(?:kr|z[lł])\.?(?= ?[0-9])|[¢R](?=[0-9])|(?-i:[A-Z]{1,3}|Mex) ?\$"
"""A pattern of what stands before an amount: "$", "US$", "Rs."."""
_FACTOR = re.compile(
    r"(?:(?P<power>square|sq\.?|cubic|cu\.?) )?(?P<name>[^\W\d_]+\.?[^\W\d_]*\.?|[°$€£¥₹¢%₠-⃀৳฿][CF]?)"
    r"(?: ?\^ ?\{? ?(?P<raised>-?[0-9]) ?\}?| (?P<spelled>squared|cubed))?",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"\s*(?P<sign>[·*×]|\\cdot(?![A-Za-z])|\\times(?![A-Za-z])|-|/|\b(?:per|an?)\b)\s*|\s+")
_QUOTIENT = re.compile(r"\\frac ?\{ ?([^{}]{1,20}) ?\} ?\{ ?([^{}]{1,20}) ?\}")
_PER_SECOND = re.compile(r"\Ams ?\^ ?(?=\{? ?-)")
_AMBIGUOUS = (
    {"rupee", "pakistanirupee"},
    {"rupee", "srilankanrupee"},
    {"peso", "colombianpeso"},
    {"peso", "chileanpeso"},
    {"peso", "argentinepeso"},
    {"pound", "egyptianpound"},
    {"riyal", "qataririyal"},
    {"dinar", "kuwaitidinar"},
    {"krona", "icelandickrona"},
    {"dollar", "australiandollar"},
    {"dollar", "canadiandollar"},
    {"dollar", "singaporedollar"},
    {"dollar", "hongkongdollar"},
    {"dollar", "newzealanddollar"},
    {"dollar", "taiwandollar"},
    {"yensign", "yen"},
    {"yensign", "yuan"},
    {"pound", "poundsterling"},
    {"degree", "celsius"},
    {"degree", "fahrenheit"},
    {"celsius", "coulomb"},
    {"fahrenheit", "farad"},
    {"foot", "forint"},
)  # fmt: skip
"""Units that a text may have meant by the same sign or word."""


def of_money(sign: str) -> str:
    """The currency that `MONEY` matched; one that is not in the table by its own sign."""
    if sign == "R":
        return "rand"
    return _SYMBOLS.get(sign.replace(" ", "").removesuffix(".")) or _SYMBOLS.get(sign, sign)


def name_of(word: str) -> str | None:
    """Canonical name of one unit, or None where it is none that is known. "mW" and "MW" are two."""
    if word in _SYMBOLS and (len(word) > 1 or not word.isascii() or word in SINGLE or word in "$"):
        return _SYMBOLS[word]
    bare = word.rstrip(".")
    if len(bare) == 1 and bare.isascii():
        return _SYMBOLS[bare] if bare in SINGLE or bare == "$" else None
    if bare in _SYMBOLS:
        return _SYMBOLS[bare]
    low = bare.lower()
    for name in (low, low.removesuffix("s"), low.removesuffix("es")):
        if name in _WORDS:
            return _WORDS[name]
        if name in _QUOTIENTS:
            return _QUOTIENTS[name]
        if name in _FOLDED and len(name) > 1:
            return _FOLDED[name]
    return None


@lru_cache(maxsize=4096)
def known(text: str) -> str | None:
    """Canonical name of a unit, such as "kilometer·hour^-1"; None where a part of it is not known.

    Example: known("square metres") == known("m^2") == "meter^2"
    """
    if len(text) > 80:
        return None
    if (sign := text.strip(" .")).endswith("$") and sign in _SYMBOLS:
        return _SYMBOLS[sign]
    powers: dict[str, int] = {}
    at, exponent_sign = 0, 1
    text = _PER_SECOND.sub("m s^", _QUOTIENT.sub(r"\1/\2", text.strip(" .")))
    text = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    while at < len(text):
        factor = _FACTOR.match(text, at)
        name = name_of(factor["name"]) if factor is not None else None
        if factor is None or name is None:
            return None
        raised = int(factor["raised"]) if factor["raised"] else _power(factor["power"] or factor["spelled"] or "")
        for place, part in enumerate(name.split("/")):
            powers[part] = powers.get(part, 0) + (-1 if place else 1) * exponent_sign * raised
        at = factor.end()
        if at == len(text):
            break
        between = _BETWEEN.match(text, at)
        if between is None:
            return None
        if between["sign"] and (between["sign"][0] == "/" or between["sign"][0].isalpha()):
            exponent_sign = -1
        at = between.end()
    return "·".join(f"{name}^{power}" if power != 1 else name for name, power in sorted(powers.items()) if power)


def _power(word: str) -> int:
    word = word.lower()
    return 2 if word.startswith("s") else 3 if word.startswith("c") else 1


def is_currency(unit: str | None) -> bool:
    """Whether a unit's name is that of a currency."""
    return unit in _CURRENCIES


def may_be_same(one: str | None, other: str | None) -> bool:
    """Whether two units are one, or may be, since one is left out or a sign has two meanings."""
    return one is None or other is None or one == other or {one, other} in _AMBIGUOUS

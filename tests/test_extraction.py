"""Where the answer is, in the many forms that models give it, and what is not taken for one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from orchestrator.config import THOUGHTS, Grade
from workers.answer_boxes import boxed
from workers.answer_text import is_placeholder, tidy
from workers.extraction import extract, rules_of
from workers.grader_pool import GraderPool
from workers.thoughts import opening_of, without_thoughts

RULES = rules_of(["final_answer", "boxed", "hash"], strict=True)


def found(text: str) -> str | None:
    place = extract(text, RULES)
    return place[0] if place else None


@pytest.mark.parametrize(
    "line",
    [
        *("Final Answer (in dollars): 7", "Final answer to the question: 7", "Final answer for part (b): 7"),
        *("Final answer is: 7", "The final answer is: 7", "Final answer = 7", "Final answer => 7", "Final answer -> 7"),
        *("Final answer - 7", "Final answer — 7", "Final answer → 7", "final-answer: 7", "final_answer: 7"),
        *("FinalAnswer: 7", "Final\xa0answer: 7", "Final answer： 7", "Final answer:: 7", "FINAL ANSWER:7"),
        *(
            "The final numerical answer: 7",
            "My final answer: 7",
            "So the final answer: 7",
            "Final simplified answer: 7",
        ),
        *("### Final Answer\n7", "## Final Answer\n\n**7**", "## Final Answer:\n7", "# **Final Answer**\n\n7"),
        *(
            "**Final Answer**\n\n7",
            "**Final Answer**: 7",
            "**Final Answer:** 7",
            "**Final answer: 7**",
            "**Final Answer:**\n\n7",
        ),
        *(
            "__Final Answer:__ 7",
            "__Final Answer__: 7",
            "__Final answer: 7__",
            "_Final answer:_ 7",
            "_Final answer_: 7",
        ),
        *("*Final answer:* 7", "*Final answer*: 7", "*Final answer: 7*", "***Final Answer:*** 7", "`Final answer: 7`"),
        *(
            "> Final answer: 7",
            "> **Final answer:** 7",
            "- Final answer: 7",
            "* **Final Answer:** 7",
            "1. Final answer: 7",
        ),
        *(
            "### Step 3: Final Answer: 7",
            "\\text{Final answer: } 7",
            "\\textbf{Final answer:} 7",
            "$\\text{Final answer: }7$",
        ),
        *(
            "| Final answer: | 7 |",
            "| Final answer | 7 |",
            "| **Final answer** | **7** |",
            "| Final answer |\n|---|\n| 7 |",
        ),
        *(
            '{"final_answer": "7"}',
            "{'final_answer': '7'}",
            '"final answer": 7',
            "'final answer': '7'",
            '{"steps": [], "final_answer": 7}',
        ),
        *('"Final answer: 7"', "'Final answer: 7'", "“Final answer: 7”", '"Final answer: 7."', "(Final answer: 7)"),
        *(
            "Final answer:\n- 7",
            "Final answer:\n* 7",
            "Final answer:\n• **7**",
            "Final answer:\n1. 7",
            "Final answer:\n> 7",
        ),
        *(
            "Final answer:\n```\n7\n```",
            "Final answer:\n```text\n7\n```",
            "Final answer:\n~~~\n7\n~~~",
            "Final answer: ```7```",
        ),
        *("Final answer:\n\\[\n7\n\\]", "Final answer:\n$$\n7\n$$", "Final answer:\n\\begin{align*}\n7\n\\end{align*}"),
        *(
            "Final answer:\n\\begin{equation}\n7\n\\end{equation}",
            "Final answer:\n---\n7",
            "Final answer:\n\n\n7",
            "Final answer:\r\n7",
        ),
        *(
            "Final answer:\n\nThe total is:\n7",
            "Final answer: The total is\n7",
            "Final answer: (see below)\n7",
            "Final answer: as follows:\n7",
        ),
        *(
            "Final answer: See below.\n\n7",
            "Final answer:<br>7",
            "Final answer: 7<br/>",
            "Final answer: <answer>7</answer>",
            "Final answer: <b>7</b>",
        ),
        *(
            "Final answer: ==7==",
            "Final answer: _7_",
            "Final answer: 「7」",
            "Final answer: 7 ✅",
            "Final answer: 🎉 7",
            "Final answer: 7。",
        ),
        *(
            "Final answer: 7</s>",
            "Final answer: 7<|im_end|>",
            "Final answer: 7 [/INST]",
            "Final answer: 7 <eos>",
            "Final answer: 7<end_of_turn>",
        ),
        *(
            "Final answer: 7 \\\\ done",
            "Final answer: 7, since 3 + 4 = 7.",
            "Final answer: 7 because 3 + 4 = 7",
            "Final answer: 7 (since 3+4=7)",
        ),
        *(
            "Final answer: 7. This is because we added.",
            "Final answer: 7 Let me know if you need help.",
            "Final answer: 7 I hope this helps!",
        ),
        *(
            "Final answer: 7. Feel free to ask.",
            "Final answer: 7. Please let me know.",
            "Final answer: 7.\n\nHuman: thanks",
            "Final answer: 7 Hope this helps!",
        ),
        *(
            "Final answer: So the answer is 7.",
            "Final answer: Answer: 7",
            "Final answer: Final answer: 7",
            "Final answer: #### 7",
        ),
        *(
            "Final answer: The correct answer is 7.",
            "Final answer: Therefore, the answer is: 7",
            "Final answer: \\boxed{7}",
            "Final answer: $\\boxed 7$",
        ),
        *(
            "Final answer:\n\nAdding up gives\n$$\\boxed{7}$$",
            "### Final Answer\n\nThe total is $\\boxed{7}$.",
            "Final answer: boxed{7}",
        ),
        *(
            "Final answer: 6\n\nWait, that is wrong.\n\nFinal answer: 7",
            "\\boxed{6}\nFinal answer: 7",
            "#### 6\nFinal answer: 7",
        ),
    ],
)
def test_forms_of_a_final_answer(line: str) -> None:
    assert found(f"First 3+4.\n{line}") == "7"
    assert found(line) == "7"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final answer: -7", "-7"),
        ("Final answer:\n-7", "-7"),
        ("Final answer: 7 apples", "7 apples"),
        ("Final answer:\n- 3\n- 4", "3, 4"),
        ("Final answer:\n- 3\n- They are what is left when all is done", "3"),
        ("Final answer:\n1. 3\n2. 4", "3, 4"),
        ("Final answer: |x|", "|x|"),
        ("Final answer: (ab)*", "(ab)*"),
        ("Final answer: A*", "A*"),
        ("**Final answer:** A*", "A*"),
        ("Final answer: x_", "x_"),
        ("Final answer: $", "$"),
        ("Final answer: 👍", "👍"),
        ("Final answer: C++", "C++"),
        ("Final answer: 5;", "5;"),
        ("Final answer: f'(x)", "f'(x)"),
        ("'Final answer: B'", "B"),
        ('{"final_answer": "\\\\frac{1}{2}"}', "\\frac{1}{2}"),
        ('{"final_answer": "\\pi"}', "\\pi"),
        ('{"final_answer": "Paris", "why": "it is"}', "Paris"),
        ("Final answer:\n\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}", "\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}"),
        (
            "Final answer:\n\\[\n\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}\n\\]",
            "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
        ),
        ("Final answer:\n\\begin{align*}\nx &= 3+4 \\\\\n&= 7\n\\end{align*}", "x = 3+4 = 7"),
        ("Final answer: He left because it rained", "He left because it rained"),
        ("Final answer: Let it be", "Let it be"),
        ("Final answer: First Avenue", "First Avenue"),
        ("Final answer: <b>x</b>", "x"),
        ("Final answer: 3 < x < 5", "3 < x < 5"),
        ("Final answer: ❌", "❌"),
        ("Final answer: ≈ 7", "≈ 7"),
        ("Final answer: 0.333...", "0.333..."),
        ("Final answer: x \\\\ y = 3", "x \\\\ y = 3"),
    ],
)
def test_what_a_final_answer_keeps(text: str, answer: str) -> None:
    assert found(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{7}\n\nNote: \\boxed{ } is used for the answer.",
        "\\boxed{7}\n\nYour answer must be of the form \\boxed{answer}.",
        "\\boxed{7}, as asked inside \\boxed{...}.",
        "\\boxed{7}. (Format: \\boxed{\\text{your answer}})",
        "\\boxed{7}\nThe form \\boxed{final answer} was asked for",
        "The form is \\boxed{\\ldots}. So \\boxed{7}",
        '3+4=7\nFinal answer: 7\n\n(As requested, the last line begins with "Final answer:".)',
        'I will end with "Final answer:" and the number.\n3+4=7\n\\boxed{7}',
        "I must write 'Final answer: ...' at the end.\n\\boxed{7}",
        "Write “Final answer: X” at the end.\n#### 7",
        "I shall say `Final answer: <number>` at the end.\n\\boxed{7}",
        "Final answer: 7\nI wrote 'Final answer: 7' as you asked for it.\n",
        "Let me give the Final answer: first compute 3+4.\nThat is \\boxed{7}",
        "Final answer: let us add.\n\\boxed{7}",
        "Final answer: <your answer>\n\nFinal answer: 7",
        "Final answer: 7\n\nFinal answer: <your answer>",
        "Final answer: [number]\nFinal answer: 7",
        "Final answer: {answer}\n7 it is: \\boxed{7}",
        "Final answer: \\boxed{}\nFinal answer: 7",
        "Format: Final answer: \\boxed{answer}\n\nFinal answer: \\boxed{7}",
        "Final answer: ____\nFinal answer: 7",
        "Final answer: ...\nFinal answer: 7",
        "Final answer: your answer here\nFinal answer: 7",
        "Final answer: (your final answer)\n\\boxed{7}",
        "Final answer: [insert answer here]\n\\boxed{7}",
        "Final answer: 7\nFinal answer:",
        "I will put the final answer: in the form of a box.\n\\boxed{7}",
    ],
)
def test_an_echo_of_the_instruction_is_no_answer(text: str) -> None:
    assert found(text) == "7"


@pytest.mark.parametrize(
    "text",
    [
        "Final answer: <number>",
        "Final answer: [your answer]",
        "Final answer: \\boxed{}",
        "Final answer: \\boxed{answer}",
        "\\boxed{\\text{answer}}",
        "I will write 'Final answer: X' at the end.",
        'The line begins with "Final answer:".',
        "#### <answer>",
        "####",
        "Final answer: ...",
        "**Final answer:**",
        "| Final answer |",
        "I need the final answer",
        "This is the final answer\nto nothing",
        "The answer",
        "Is that the answer?",
        "I know the answer.",
    ],
)
def test_where_nothing_is_answered_nothing_is_found(text: str) -> None:
    assert found(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("$\\boxed 7$", "7"),
        ("\\boxed 42.", "42"),
        ("\\boxed7", "7"),
        ("\\boxed -7", "-7"),
        ("\\boxed 1,234", "1,234"),
        ("\\boxed 3.5", "3.5"),
        ("\\boxed\\frac12", "\\frac12"),
        ("\\boxed\\frac{1}{2}", "\\frac{1}{2}"),
        ("\\boxed \\pi", "\\pi"),
        ("\\boxed x", "x"),
        ("\\boxed(1,2)", "(1,2)"),
        ("\\framebox{7}", "7"),
        ("\\fbox{7}", "7"),
        ("\\boxed {7}", "7"),
        ("\\boxed\n{7}", "7"),
        ("\\\\boxed{7}", "7"),
        ("\x08oxed{7}", "7"),
        ("boxed{7}", "7"),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed{\n7\n}", "7"),
        ("\\boxed{\\displaystyle 7}", "\\displaystyle 7"),
        ("\\boxed{\\text{The answer is }7}", "\\text{The answer is }7"),
        ("\\boxed{\\begin{aligned} x &= 7 \\end{aligned}}", "x = 7"),
        ("\\boxed{\\begin{aligned} x &= 3+4 \\\\ &= 7 \\end{aligned}}", "x = 3+4 = 7"),
        ("\\boxed{\\begin{aligned} x &= 3 \\\\ y &= 7 \\end{aligned}}", "x = 3, y = 7"),
        ("\\boxed{\\begin{array}{c} 1 \\\\ 2 \\end{array}}", "\\begin{array}{c} 1 \\\\ 2 \\end{array}"),
        ("\\boxed{7\\text{ because } 3+4=7}", "7"),
        ("x = \\boxed{3}\ny = \\boxed{7}", "3, 7"),
        ("\\boxed{3} as well as \\boxed{7}", "3, 7"),
        ("$\\boxed{3}$ & $\\boxed{7}$", "3, 7"),
        ("\\boxed{6}\\boxed{7}", "6, 7"),
        ("\\boxed{7} or \\boxed{8}", "7, 8"),
        ("\\boxed{5}\n\\boxed{6}\n\\boxed{7}", "5, 6, 7"),
        ("$$\\boxed{5}$$\n\n$$\\boxed{7}$$", "5, 7"),
        ("\\boxed{7}\n\\boxed{7}", "7"),
        ("\\boxed{7}. \\boxed{7.0}", "7"),
        ("\\boxed{\\frac12} or \\boxed{0.5}", "\\frac12"),
        ("\\boxed{\\frac{1}{2}} = \\boxed{0.5}", "\\frac{1}{2} = 0.5"),
        ("\\boxed{1/2}, i.e. \\boxed{50\\%}", "1/2"),
        ("\\boxed{\\frac{1}{3}} \\approx \\boxed{0.33}", "\\frac{1}{3}"),
        ("\\boxed{2\\sqrt 3} or equivalently \\boxed{\\sqrt{12}}", "2\\sqrt 3"),
        ("\\boxed{5}. Wait, that is wrong. So \\boxed{7}", "7"),
        ("\\boxed{5} is the number of pears that remain.\n\nSo \\boxed{7}", "7"),
        ("(a) \\boxed{2}\n(b) \\boxed{3}", "3"),
        ("a boxed set", None),
        ("\\boxed", None),
        ("\\boxed{7", None),
        ("unboxed{7}", None),
        ("\\boxed is a command", None),
    ],
)
def test_forms_of_a_box(text: str, answer: str | None) -> None:
    assert found(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 7\n\n#### Explanation\nWe added.", "7"),
        ("#### 7\n\n#### Note: we added.", "7"),
        ("#### Step 1: add\n3+4\n#### 7", "7"),
        ("#### 7\n#### Step 2", "7"),
        ("#### Answer: 7", "7"),
        ("#### Final Answer\n7", "7"),
        ("#### Answer\n\n7", "7"),
        ("#### **7**", "7"),
        ("##### 7", "7"),
        ("###### 7", "7"),
        ("####7", "7"),
        ("#### 7 ####", "7"),
        ("#### 7\n####", "7"),
        ("#### The answer is 7.", "7"),
        ("#### $\\boxed{7}$", "7"),
        ("#### Paris", "Paris"),
        ("#### C#", "C"),
        ("####\n7", "7"),
        ("#### Explanation", None),
    ],
)
def test_forms_of_hashes(text: str, answer: str | None) -> None:
    assert found(text) == answer


@pytest.mark.parametrize(
    "turn",
    [
        "Question: What is 2+2?",
        "Q: And now?",
        "Human: thanks",
        "User: 2+2?",
        "### Question: x",
        "Problem 2: x",
        "**Question:** x",
        "Question 2: x",
        "<|im_start|>user\nx",
        "<|im_end|>\nx",
        "[INST] x",
    ],
)
@pytest.mark.parametrize("answer", ["Final answer: {}", "\\boxed{{{}}}", "#### {}", "The answer is {}."])
def test_what_a_model_asks_and_answers_besides_does_not_count(turn: str, answer: str) -> None:
    text = f"Question: What is 3+4?\n3+4=7\n{answer.format(7)}\n\n{turn}\n{answer.format(4)}"
    assert found(text) == "7"
    assert found(f"{turn}\n{answer.format(7)}") == "7"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "The answer is 7.",
            "So the answer is: 7",
            "Answer: 7",
            "**Answer:** 7",
            "**Answer**: 7",
            "**Answer: 7**",
            "ANSWER: 7",
        ),
        *(
            "Answer - 7",
            "Answer = 7",
            "### Answer\n7",
            "**Answer**\n\n7",
            "The answer must be 7",
            "The answer would be 7.",
        ),
        *(
            "The answer should be 7",
            "The answer to the question is 7",
            "The answer (in dollars) is 7",
            "What is the answer? 7",
            "The final answer is 7.",
        ),
        *(
            "Is the answer 6? No. The answer is 7.",
            "Answer: It is not 6, the answer is 7",
            "The answer is\n\n7",
            "Answer:\n7",
            "My answer: 7.",
        ),
        *(
            "答案：7",
            "答案是 7。",
            "因此，答案是7。",
            "最终答案：7",
            "答案为：7",
            "**答案：** 7",
            "正确答案是7。",
            "答えは7です",
            "答えは 7 です。",
            "答え：7",
        ),
        *(
            "最終的な答えは7です。",
            "解答：7",
            "정답: 7",
            "최종 답: 7",
            "답은 7입니다.",
            "정답은 7입니다",
            "最終答案：7",
        ),
        *(
            "Réponse finale : 7",
            "Réponse : 7",
            "La réponse est 7.",
            "La réponse finale est : 7",
            "La respuesta es 7.",
            "Respuesta: 7",
            "Respuesta final: 7",
        ),
        *(
            "La respuesta final es 7.",
            "Risposta finale: 7",
            "La risposta è 7.",
            "Resposta final: 7",
            "A resposta é 7.",
            "Antwort: 7",
            "Die Antwort ist 7.",
        ),
        *(
            "Die Antwort lautet: 7",
            "Endgültige Antwort: 7",
            "**Antwort:** 7",
            "Antwort:\n\nAntwort: 7",
            "Antwoord: 7",
            "Het antwoord is 7.",
            "Svar: 7",
            "Svaret är 7.",
        ),
        *(
            "Ответ: 7",
            "Окончательный ответ: 7",
            "Ответ — 7",
            "Відповідь: 7",
            "Odpowiedź: 7",
            "Odpověď: 7",
            "Cevap: 7",
            "Yanıt: 7",
            "Đáp án: 7",
            "Đáp án là 7.",
        ),
        *(
            "Đáp số: 7",
            "Câu trả lời cuối cùng: 7",
            "Jawaban: 7",
            "Jawaban akhir: 7",
            "Jawaban akhir adalah 7",
            "Răspuns: 7",
            "Vastaus: 7",
            "Απάντηση: 7",
        ),
        *(
            "الإجابة: 7",
            "الإجابة النهائية: 7",
            "الجواب هو 7",
            "پاسخ: 7",
            "תשובה: 7",
            "अंतिम उत्तर: 7",
            "उत्तर: 7",
            "คำตอบ: 7",
            "উত্তর: 7",
        ),
    ],
)
def test_an_answer_that_is_declared_in_plain_words_counts_last(text: str) -> None:
    assert found(f"3+4\n{text}") == "7"
    assert extract(f"{text}\nso \\boxed{{8}}", RULES) == ("8", "boxed")
    assert extract(text, ["boxed", "hash"]) is None  # a job that asks for boxes alone gets boxes alone


def test_which_rules_a_job_has() -> None:
    default = Grade().answer
    assert rules_of(default, strict=True) == [*default, "answer_is"]
    for named in (["final_answer"], ["final_answer", "boxed"], default[::-1]):  # there the form is what is learned
        assert rules_of(named, strict=True) == named
        assert extract("The answer is 7.", rules_of(named, strict=True)) is None
    assert extract("The answer is 7.", rules_of(default, strict=True)) == ("7", "answer_is")
    assert rules_of(["boxed"], strict=True) == ["boxed"]
    assert rules_of(["boxed"], strict=False) == ["boxed", "answer_is", "last_number"]
    assert rules_of(["answer_is", "final_answer"], strict=True) == ["answer_is", "final_answer"]
    text = "<a>1</a>\nQuestion: x\n<a>2</a> \\boxed{3}"
    assert extract(text, ["pattern:<a>(.)</a>", "boxed"]) == ("2", "pattern:<a>(.)</a>")
    assert extract("#### 3\nQuestion: x\nall", ["whole"]) == ("#### 3\nQuestion: x\nall", "whole")


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>4</think>7", "7"),
        ("4</think>7", "7"),
        ("<think>1</think><think>2</think>7", "7"),
        ("<think>4", ""),
        ("hm <think>4", "hm "),
        ("7", "7"),
        ("", ""),
        ("<think>a</think>7<think>b", "7"),
        ("<think></think>7", "7"),
        ("<thinking>4</thinking>7", "7"),
        ("<|begin_of_thought|>4<|end_of_thought|>7", "7"),
        ("<|begin_of_thought|>4", ""),
        ("[THINK]4[/THINK]7", "7"),
        ("◁think▷4◁/think▷7", "7"),
        ("<reasoning>4</reasoning>7", "7"),
        ("<|channel|>analysis<|message|>4<|end|><|start|>assistant<|channel|>final<|message|>7", "7"),
    ],
)
def test_thoughts_are_left_out(text: str, rest: str) -> None:
    assert without_thoughts(text, THOUGHTS) == rest


def test_a_job_can_name_its_own_mark() -> None:
    assert without_thoughts("a DONE b</think>c", ["DONE"]) == " b</think>c"
    assert without_thoughts("<think>a</think>b", []) == "<think>a</think>b"
    assert opening_of("DONE") is None
    assert Grade(thoughts="</mind>").thoughts == ["</mind>"]
    assert Grade(thoughts=[]).thoughts == []
    for bad in ("", " ", ["</think>", "\n"], 7):
        with pytest.raises(ValidationError):
            Grade(thoughts=bad)


def test_thoughts_through_the_pool() -> None:
    long = "Final answer: 4. " * 50
    items = [
        ("7", "<think>Final answer: 4</think>\\boxed{7}", "stop"),
        ("7", "Final answer: 4</think>\\boxed{7}", "stop"),
        ("4", "<think>Final answer: 4</think>", "stop"),
        ("4", "<think>Final answer: 4", "stop"),
        ("4", f"<think>{long}", "stop"),  # the mark lies before what is read
        ("7", f"<think>{long}</think>Final answer: 7", "stop"),
        ("7", "<think>Final answer: 7", "length"),
    ]
    with GraderPool(Grade(graders=["exact"], processes=1, max_characters=100)) as pool:
        graded = pool.grade(items)
    assert [one.verdict for one in graded] == ["correct", "correct", "wrong", "wrong", "wrong", "correct", "ungradable"]
    assert [one.reason for one in graded[2:5]] == ["no answer found"] * 3
    with GraderPool(Grade(graders=["exact"], processes=1, thoughts=[])) as pool:
        assert pool.grade(items[3:4])[0].verdict == "correct"


def test_placeholders() -> None:
    for text in (
        "",
        " ",
        "...",
        "…",
        "___",
        "your answer",
        "<number>",
        "[answer]",
        "{final answer}",
        "\\text{answer}",
        "<your answer here>",
        "(your answer)",
        "?",
        "\\ldots",
        "number",
        "the answer",
        "letter of the correct option",
    ):
        assert is_placeholder(text), text
    for text in (
        "7",
        "x",
        "Paris",
        "[0, 1]",
        "{1, 2}",
        "(a, b)",
        "<x, y>",
        "answering machine",
        "A",
        "the sun",
        "number 7",
        "\\pi",
        "x < y > z",
        "no",
        "-",
        "X",
    ):
        assert not is_placeholder(text), text


def test_decoration_goes_and_meaning_stays() -> None:
    for text in (
        "**7**",
        "**7.**",
        "*7*",
        "__7__",
        "_7_",
        "==7==",
        "`7`",
        "```7```",
        "7.",
        "7。",
        "<b>7</b>",
        "7 <|eot_id|>",
        "7</s></s>",
        "**7",
        "7**",
        "「7」",
        "7 ✅",
        "✔️ 7",
    ):
        assert tidy(text) == "7", text
    for text in ("a*", "(ab)*", "x_", "7..", "7...", "a**b", "*", "✗ 7", "x_1", "a_b_", "3 < x", "7!", "f'"):
        assert tidy(text) == text, text


FLOODS = [
    *(
        "Final answer:",
        "Final answer: \n",
        '"Final answer: ',
        "final answer (",
        "final answer to ",
        "answer ",
        "answer is ",
        "answer to ",
    ),
    *(
        "\\boxed",
        "\\boxed ",
        "\\boxed7",
        "\\boxed{}",
        "\\boxed{7} or ",
        "\\begin{align}",
        "#### ",
        "####\n",
        "\nQuestion:",
        "<think>",
        "</think>",
    ),
    *(
        "- a\n",
        "\n- ",
        "> ",
        "| ",
        "<b>",
        "because ",
        "答案",
        "答案是",
        "réponse ",
        "... ",
        "\\\\ ",
        "💡",
        " \n",
        "\t",
        "**",
        "_",
        '"',
        "\xa0",
    ),
]


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_marks_is_read_in_one_pass(flood: str) -> None:
    # Looking behind each mark for the rest of the text, or for the end of each environment, would take hours.
    text = flood * (150_000 // len(flood))
    extract(text, RULES)
    extract(f"Final answer: {text}", RULES)
    extract(f"answer: {text}", RULES)
    extract(f"\\boxed{{{text}}}", RULES)
    without_thoughts(text, THOUGHTS)
    assert extract(f"{text}\n\nFinal answer: 7\n", RULES) == ("7", "final_answer")
    assert boxed(f"{text}\n\n so, \\boxed{{7}}") == "7"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("####\n7", "7"),
        ("3+4\n####\n\n7\n", "7"),
        ("####\nStep 1\nwe add", None),
        ("Final answer: 7\n(The format is Final answer: <number>.)", "7"),
        ("Final answer:\n\\underline{17}", "\\underline{17}"),
        ("Final answer: \\underline{\\qquad}", None),
        ("Final answer: \\underline{answer}", None),
    ],
)
def test_blanks_and_what_is_underlined(text: str, answer: str | None) -> None:
    assert found(text) == answer


def test_the_first_box_is_found_whatever_stands_before_it() -> None:
    for before in ("", "{", "}", "\\\\", "\\{", "x", "{\\text{a} "):
        for box in ("\\boxed{7}", "\\fbox{7}", "\\framebox{7}", "\x08oxed{7}", " boxed{7}"):
            assert boxed(f"{before}{box}") == "7", (before, box)

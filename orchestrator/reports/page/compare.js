// The page of several models side by side: figures, settings, and what each answered to the same problems.

const SHOWN = 25;
const colour = (at) => `c${(at % 7) + 1}`;
const name = (side) => `${side.name}, ${roundName(side.round)}`;
const short = (side) => (side.name.length > 40 ? `…${side.name.slice(-40)}` : side.name) + `, ${roundName(side.round)}`;

function showModels(sides) {
  put("model-table", table("Models", [
    ["run", (side) => plain(side.name)],
    ["round", (side) => side.round || "base"],
    ["method", (side) => plain(side.method || "–")],
    ["test %", (side) => interval(side.test)],
    ["won", (side) => number(side.won)],
    ["lost", (side) => number(side.lost)],
    ["shared", (side) => number(side.shared)],
    ["p", (side) => (side.p_value === null ? "–" : side.p_value.toPrecision(3))],
  ], sides));
}

function showRounds(sides) {
  const numbers = [...new Set(sides.flatMap((side) => side.rounds.map((round) => round.round)))].sort((a, b) => a - b);
  const lines = (value) => sides.map((side, at) => ({ name: plain(side.name), colour: colour(at), points: known(side.rounds, value) }));
  const accuracy = (split) => (round) => round[split] && { value: 100 * round[split].accuracy, low: 100 * round[split].low, high: 100 * round[split].high };
  const value = (found) => (found === null || found === undefined ? null : { value: found });
  const graded = (round) => Object.values(round.verdicts).reduce((sum, count) => sum + (count || 0), 0);
  const percents = { name: (found) => `${number(found, 1)} %` };
  put("round-charts",
    byRound("Test accuracy", "% with intervals", numbers, lines(accuracy("test")), percents),
    byRound("Gate accuracy", "% with intervals", numbers, lines(accuracy("gate")), percents),
    byRound("Samples correct", "%", numbers, lines((round) => (graded(round) ? value((100 * round.verdicts.correct) / graded(round)) : null)), percents),
    byRound("Pairs", "", numbers, lines((round) => value(round.pairs)), { zero: true }),
    byRound("Mean length of test answers", "tokens", numbers, lines((round) => value(round.test && round.test.mean_tokens)), { name: (found) => number(found, 1), zero: true }),
    byRound("Seconds", "of a round, by the clock", numbers, lines((round) => value(round.round ? round.wall : null)), { name: (found) => `${number(found, 1)} s`, zero: true }),
  );
}

function showSettings(sides, settings) {
  if (!settings.length) {
    put("setting-table", el("p", {}, "None: all settings are the same."));
    return;
  }
  const of = (at) => ({ values }) => (values[at] === null ? "–" : plain(typeof values[at] === "string" ? values[at] : JSON.stringify(values[at])));
  put("setting-table", table("Settings", [["setting", ({ key }) => plain(key)], ...sides.map((side, at) => [plain(side.name), of(at)])], settings));
}

// The problems, as many as are asked for.
class Problems {
  constructor(sides, problems) {
    this.sides = sides;
    this.problems = problems;
    options("solved", "any or none", [
      ["differ", "some, and not all"], ["all", "all"], ["none", "none"],
      ...sides.map((side, at) => [`only${at}`, `only ${short(side)}`]),
      ...sides.map((side, at) => [`not${at}`, `all but ${short(side)}`]),
    ]);
    byId("f-q").addEventListener("input", () => this.show());
    byId("f-solved").addEventListener("change", () => this.show());
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").addEventListener("reset", () => setTimeout(() => this.show()));
    byId("more").addEventListener("click", () => this.show(this.count + SHOWN));
    this.show();
  }

  matching() {
    const query = byId("f-q").value.toLowerCase(), wanted = byId("f-solved").value;
    const at = Number(wanted.replace(/^\D+/, ""));
    const fits = (right) => {
      const count = right.filter(Boolean).length;
      if (wanted === "differ") return count > 0 && count < right.length;
      if (wanted === "all") return count === right.length;
      if (wanted === "none") return count === 0;
      if (wanted.startsWith("only")) return count === 1 && right[at];
      if (wanted.startsWith("not")) return count === right.length - 1 && !right[at];
      return true;
    };
    return this.problems.filter((problem) =>
      fits(problem.answers.map((answer) => answer !== null && answer.verdict === "correct"))
      && (!query || problem.prompt.toLowerCase().includes(query) || problem.answers.some((answer) => answer && answer.text.toLowerCase().includes(query)))
    );
  }

  show(count = SHOWN) {
    this.count = count;
    const found = this.matching(), shown = found.slice(0, count);
    byId("found").textContent = found.length === 1 ? "1 problem" : `${number(found.length)} problems`;
    byId("list").replaceChildren(...shown.map((problem) => this.item(problem)));
    byId("more").hidden = shown.length === found.length;
  }

  item(problem) {
    return el("li", { class: "card" }, ...prompt(problem),
      el("div", { class: "columns", tabindex: "0", role: "region", "aria-label": "Answers by model" }, problem.answers.map((answer, at) =>
        el("section", { class: "column" }, el("h4", {}, said(plain(name(this.sides[at])))), answer === null
          ? el("p", { class: "faint" }, "It was not asked.")
          : el("article", { class: "card" }, el("p", { class: "card-head" }, verdictOf(answer),
              answer.tokens === null ? null : el("span", { class: "faint" }, `${number(answer.tokens)} tokens`)), why(answer), written(answer.text))))));
  }
}

function show(told) {
  const { sides, settings, problems } = told;
  put("summary", told.sentences.map((sentence) => el("p", {}, said(sentence))));
  showModels(sides);
  showRounds(sides);
  showSettings(sides, settings);
  put("left-out", told.left_out.length ? [el("h3", {}, "Left out, since it could not be read"), list(told.left_out)] : []);
  byId("shown").textContent = problems.length < told.all
    ? `This page shows ${number(problems.length)} of ${number(told.all)} problems, those on which the models differ first.`
    : `All ${number(told.all)} problems, those on which the models differ first.`;
  put("footer", `Made by Ratchet ${told.version}.`);
  new Problems(sides, problems);
}

followSections();
start(show, "`ratchet compare RUN RUN` prints the same figures.");

// The page of a run as a whole: fills its sections.

const COLOURS = { gate: "c1", test: "c2" };

function showRounds(rounds) {
  const numbers = rounds.map((round) => round.round), later = numbers.filter((round) => round);
  const accuracy = ["gate", "test"].map((split) => ({
    name: split,
    colour: COLOURS[split],
    points: known(rounds, (round) => round[split] && { value: 100 * round[split].accuracy, low: 100 * round[split].low, high: 100 * round[split].high }),
  }));
  const lengths = [["samples", "c3", (r) => r.tokens.sample], ["chosen", "c1", (r) => r.tokens.chosen], ["rejected", "c4", (r) => r.tokens.rejected], ["test answers", "c2", (r) => r.test && r.test.mean_tokens]]
    .map(([name, colour, value]) => ({ name, colour, points: known(rounds, value).map(([round, found]) => [round, { value: found }]) }));
  const block = (name, colour, value) => ({ name, colour, block: true, values: new Map(known(rounds, value)) });
  put("round-charts",
    byRound("Accuracy", "% with intervals", numbers, accuracy, { name: (value) => `${number(value, 1)} %` }),
    bars("Won and lost", "gate problems, against the reference", later, [block("won", "good", (r) => r.won), block("lost", "bad", (r) => r.lost)]),
    bars("Verdicts", "samples", later, ["correct", "wrong", "ungradable"].map((name, at) => block(name, ["good", "bad", "unsure"][at], (r) => r.verdicts[name])), { stacked: true }),
    byRound("Mean length", "tokens", numbers, lengths, { name: (value) => number(value, 1), zero: true }),
  );
  put("round-table", table("Figures by round", [
    ["round", (r) => (r.round ? r.round : "base")],
    ["test %", (r) => interval(r.test)],
    ["gate %", (r) => interval(r.gate)],
    ["promoted", (r) => (r.promoted === null ? "" : r.promoted ? "yes" : "no")],
    ["won", (r) => number(r.won)],
    ["lost", (r) => number(r.lost)],
    ["samples", (r) => number(r.samples)],
    ["correct", (r) => number(r.verdicts.correct)],
    ["wrong", (r) => number(r.verdicts.wrong)],
    ["ungradable", (r) => number(r.verdicts.ungradable)],
    ["pairs", (r) => number(r.pairs) + (r.replayed ? `, and ${number(r.replayed)} of earlier rounds` : "")],
    ["pass@N", (r) => percent(r.pass_any)],
    ["answers a prompt", (r) => number(r.answers, 2)],
  ], rounds));
  const decided = rounds.filter((round) => round.reason);
  put("gate-words", decided.length ? [el("h3", {}, "What the gate said"), list(decided.map((round) => `Round ${round.round}: ${round.reason}`))] : []);
}

function showHarness({ models, rows, notes }) {
  byId("harness").hidden = !models.length;
  put("harness", models.length ? [
    el("h3", {}, "Tasks of lm-evaluation-harness"),
    el("p", { class: "note" }, "Fractions, ± standard error. They decide nothing."),
    table("Tasks of lm-evaluation-harness", [["figure", (row) => said(row[0])], ...models.map((name, at) => [name, (row) => row[at + 1]])], rows),
    notes.length ? list(notes) : null,
  ] : []);
}

function showTraining(all) {
  put("training-charts",
    curves("Loss", "", all, [{ name: "loss", colour: "c1", column: "loss" }]),
    curves("Log-probabilities", "of whole completions, nats", all, [{ name: "chosen", colour: "c1", column: "chosen_logprob" }, { name: "rejected", colour: "c4", column: "rejected_logprob" }]),
    curves("Reward accuracy", "share of pairs", all, [{ name: "reward accuracy", colour: "c3", column: "reward_accuracy" }]),
  );
  const most = Math.max(1, ...all.map((of) => of.each));
  const means = most > 1 ? ` A point is the mean of up to ${most} updates.` : "";
  byId("training-note").textContent = all.length ? `By update, the rounds one after another; a dashed line is where a round begins.${means}` : "Nothing is trained yet.";
}

function showSeconds(rounds) {
  const later = rounds.filter((round) => round.round);
  const phases = [...new Set(later.flatMap((round) => Object.keys(round.seconds)))];
  const work = phases.filter((phase) => phase !== "verdicts");
  const sum = (round) => work.reduce((total, phase) => total + (round.seconds[phase] || 0), 0);
  const idle = { name: "no phase’s", colour: "unsure", block: true, values: new Map(later.map((r) => [r.round, r.wall === null ? 0 : Math.max(0, r.wall - sum(r))])) };
  const blocks = work.map((name, at) => ({ name, colour: `c${(at % 7) + 1}`, block: true, values: new Map(later.map((r) => [r.round, r.seconds[name] || 0])) }));
  put("seconds-charts", bars("Seconds by phase", "", later.map((r) => r.round), [...blocks, idle], { stacked: true, name: (value) => `${number(value, 1)} s`, least: 0 }));
  byId("seconds-note").hidden = !later.length;
  byId("no-seconds").hidden = later.length > 0;
  if (!later.length) return;
  const parts = ["starting", "waited for grading", "between steps"];
  put("seconds-table", table("Seconds", [
    ["round", (r) => r.round],
    ...phases.map((phase) => [phase, (r) => (r.taken_over.includes(phase) ? "taken over" : number(r.seconds[phase], 1))]),
    ["in all", (r) => number(r.wall, 1)],
    ...parts.map((part) => [part, (r) => (r.idle ? number(r.idle[part], 1) : "–")]),
  ], later));
}

function show(told) {
  const { figures, answers } = told;
  const [state, ...rest] = figures.sentences;
  put("summary", el("p", {}, el("span", { class: `state ${figures.state.replace(/[^a-z]/g, "")}` }, said(figures.state)), " ", said(state)), rest.map((sentence) => el("p", {}, said(sentence))));
  showRounds(figures.rounds);
  showHarness(figures.harness);
  showTraining(figures.curves);
  showSeconds(figures.rounds);
  const well = figures.rounds.filter((round) => round.health.length);
  put("by-round", well.length ? list(well.map((round) => `Round ${round.round}: ${round.health.join("; ")}`)) : []);
  put("warnings", figures.warnings.length ? list(figures.warnings) : el("p", {}, "None shows in this run’s figures."));
  put("left-out", told.left_out.length ? [el("h3", {}, "Left out, since it could not be read"), list(told.left_out)] : []);
  put("footer", `Made by Ratchet ${told.version} from ${number(figures.records)} ledger records, the last of `, el("time", {}, new Date(1000 * figures.time).toISOString().slice(0, 16).replace("T", " ") + " UTC"), ".");
  if (!answers.all) {
    for (const part of document.querySelectorAll("#filters, .browser")) part.hidden = true;
    byId("shown").textContent = "There are no samples and answers yet.";
    return;
  }
  const all = answers.shown < answers.all ? `${number(answers.shown)} of ${number(answers.all)} samples and answers, those of problems that flipped first; ` : `all ${number(answers.all)} samples and answers; `;
  put("shown", `This page shows ${all}`, el("code", {}, said(`ratchet inspect ${quoted(figures.folder)}`)), " shows all there are, with pairs and checkpoints.");
  new Samples(answers, figures.folder);
}

followSections();
start(show, "The figures stand in report.md beside this file; `ratchet inspect` shows the samples.");

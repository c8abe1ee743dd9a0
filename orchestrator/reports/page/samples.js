// The sample browser: what is asked for stands in the address, and the address is all that it keeps.

const FILTERS = ["q", "round", "split", "verdict", "rule", "cause", "flip", "min", "max", "paired", "allwrong"];
const CHECKS = ["paired", "allwrong"];
const OPEN = ["problem", "in", "at", "pair", "of"];
const PAGE = 100;
const SPLITS = { train: "training", gate: "gate", test: "test" };

class Samples {
  constructor(answers, folder) {
    const { columns } = answers;
    this.rows = answers.samples.map((row) => Object.fromEntries(columns.map((name, at) => [name, row[at]])));
    this.folder = folder;
    this.problems = new Map(answers.problems.map((each) => [`${each.split}/${each.id}`, each]));
    this.ofProblem = grouped(this.rows, (row) => `${row.split}/${row.problem}`);
    this.pairs = answers.pairs;
    this.ofSample = new Map();
    for (const pair of this.pairs) {
      for (const side of ["chosen", "rejected"]) {
        const sample = pair[`${side}_sample`];
        if (sample === null || sample === undefined) continue;
        const key = sampleKey(pair.round, pair.prompt_id, sample);
        this.ofSample.set(key, [...(this.ofSample.get(key) || []), { side, pair }]);
      }
    }
    this.markAllWrong();
    this.found = [];
    this.count = PAGE;
    this.fill();
    this.listen();
    this.follow();
  }

  // A round's problems with wrong samples and none that is right.
  markAllWrong() {
    for (const rows of grouped(this.rows, (row) => `${row.round}/${row.split}/${row.problem}`).values()) {
      const all = rows.some((row) => row.verdict === "wrong") && !rows.some((row) => row.verdict === "correct");
      for (const row of rows) row.allwrong = all;
    }
  }

  inPairs(row) {
    return row.split === "train" ? this.ofSample.get(sampleKey(row.round, row.problem, row.sample)) || [] : [];
  }

  // Filters.

  fill() {
    const rounds = [...new Set([...this.rows, ...this.pairs].map((row) => row.round))].sort((a, b) => a - b);
    options("round", "all", rounds.map((round) => [round, roundName(round)]));
    options("split", "all", distinct(this.rows, "split").map((split) => [split, SPLITS[split]]));
    options("verdict", "all", distinct(this.rows, "verdict").map((verdict) => [verdict, verdict]));
    options("rule", "any rule", distinct(this.rows, "rule").map((rule) => [rule, rule]));
    options("cause", "–", [["any", "any cause"], ...distinct(this.rows, "cause").map((cause) => [cause, cause])]);
    options("flip", "–", [["any", "won or lost"], ["won", "won"], ["lost", "lost"]]);
  }

  matching(asked) {
    const query = (asked.q || "").toLowerCase();
    const min = asked.min ? Number(asked.min) : -Infinity, max = asked.max ? Number(asked.max) : Infinity;
    const is = (name, value) => !asked[name] || String(value) === asked[name] || (asked[name] === "any" && name !== "rule" && value !== null);
    const cause = (row) => is("cause", row.cause) || (asked.cause === "any" && row.verdict === "ungradable");
    return this.rows.filter((row) =>
      ["round", "split", "verdict", "rule", "flip"].every((name) => is(name, row[name])) && cause(row)
      && (min === -Infinity && max === Infinity || row.tokens !== null && row.tokens >= min && row.tokens <= max)
      && (!asked.paired || this.inPairs(row).length > 0)
      && (!asked.allwrong || row.allwrong)
      && (!query || row.text.toLowerCase().includes(query) || row.problem.toLowerCase().includes(query))
    );
  }

  // The address.

  asked() {
    const given = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries([...FILTERS, ...OPEN].map((name) => [name, given.get(name) || ""]));
  }

  go(changes, replace = false) {
    const asked = { ...this.asked(), ...changes };
    const kept = Object.entries(asked).filter(([, value]) => value !== "" && value !== false);
    const hash = "#" + new URLSearchParams(kept);
    if (hash === location.hash || (hash === "#" && !location.hash)) return;
    history[replace ? "replaceState" : "pushState"](null, "", hash);
    this.follow();
  }

  // Show what the address asks for.
  follow() {
    const asked = this.asked();
    const filters = FILTERS.map((name) => asked[name]).join("\n");
    for (const name of FILTERS) {
      const field = byId(`f-${name}`);
      if (CHECKS.includes(name)) field.checked = asked[name] !== "";
      else if (field.value !== asked[name]) field.value = asked[name];
    }
    if (filters !== this.filters) {
      this.filters = filters;
      this.count = PAGE;
      this.found = this.matching(asked);
    }
    this.showList(asked);
    const open = OPEN.map((name) => asked[name]).join("\n");
    if (open !== this.open) {
      this.open = open;
      this.showDetail(asked);
    }
  }

  // The list.

  showList(asked) {
    const selected = this.found.findIndex((row) => isOpen(row, asked));
    if (selected >= this.count) this.count = selected + PAGE;
    const shown = this.found.slice(0, this.count);
    byId("list").replaceChildren(...shown.map((row, at) => this.item(row, at === selected)));
    byId("more").hidden = shown.length === this.found.length;
    byId("found").textContent = this.found.length === 1 ? "1 sample" : `${number(this.found.length)} samples`;
    byId("list").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  item(row, current) {
    const sample = row.sample === null ? "" : `, sample ${row.sample}`;
    return el("li", {}, el("button", { type: "button", "aria-current": current && "true", onclick: () => this.openRow(row) },
      el("span", { class: "item-head" }, verdictOf(row), flipOf(row), el("b", { class: "id" }, said(plain(row.problem))),
        el("span", { class: "faint" }, `${roundName(row.round)}, ${SPLITS[row.split]}${sample}`)),
      el("span", { class: "line", dir: "auto" }, said(row.text.slice(0, 160).replace(/\s+/g, " ")))));
  }

  openRow(row, replace = false) {
    const at = row.sample === null ? `${row.round}` : `${row.round}.${row.sample}`;
    this.go({ problem: row.problem, in: row.split, at, pair: "", of: "" }, replace);
    if (matchMedia("(max-width: 999px)").matches) byId("detail").scrollIntoView();
  }

  move(by) {
    const asked = this.asked();
    const at = this.found.findIndex((row) => isOpen(row, asked));
    const next = at < 0 ? 0 : Math.min(this.found.length - 1, Math.max(0, at + by));
    if (!this.found.length) return;
    this.openRow(this.found[next], at >= 0);
    byId("list").querySelector("[aria-current]")?.focus({ preventScroll: true });
  }

  // What is open.

  showDetail(asked) {
    const detail = byId("detail");
    if (asked.pair) detail.replaceChildren(...this.pairView(asked));
    else if (asked.problem) detail.replaceChildren(...this.problemView(asked));
    else detail.replaceChildren(el("p", { class: "faint" }, "Choose a sample to see its problem through the rounds."));
    detail.querySelector(".card.current")?.scrollIntoView({ block: "nearest", inline: "center" });
  }

  problemView(asked) {
    const rows = this.ofProblem.get(`${asked.in}/${asked.problem}`) || [];
    const problem = this.problems.get(`${asked.in}/${asked.problem}`);
    if (!rows.length) return [this.closing(asked.problem, ""), absent("This page holds no answers to this problem", this.command(`--problem=${quoted(asked.problem)}`))];
    const columns = [...grouped(rows, (row) => row.round)].sort(([a], [b]) => a - b);
    return [
      this.closing(asked.problem, `${SPLITS[asked.in]} problem`),
      ...prompt(problem),
      el("div", { class: "columns", tabindex: "0", role: "region", "aria-label": "Answers by round" }, columns.map(([round, of]) =>
        el("section", { class: "column" }, el("h4", {}, `${roundName(round)}${of.length > 1 ? `, ${of.length} samples` : ""}`),
          of.map((row) => this.card(row, isOpen(row, asked)))))),
    ];
  }

  card(row, current) {
    const pairs = this.inPairs(row).map(({ side, pair }) => el("li", {}, `${side} in `, this.pairLink(pair)));
    return el("article", { class: current ? "card current" : "card" },
      el("p", { class: "card-head" }, verdictOf(row), flipOf(row), row.sample === null ? null : el("span", {}, `sample ${row.sample}`),
        row.tokens === null ? null : el("span", { class: "faint" }, `${number(row.tokens)} tokens`)),
      why(row), pairs.length ? el("ul", { class: "pairs" }, pairs) : null, written(row.text));
  }

  pairLink(pair) {
    return el("a", { href: "#" + new URLSearchParams({ pair: pair.pair_id, of: pair.round }), onclick: (event) => {
      event.preventDefault();
      this.go({ pair: pair.pair_id, of: String(pair.round), problem: "", in: "", at: "" });
    } }, said(plain(`pair ${pair.pair_id}`)));
  }

  pairView(asked) {
    const pair = this.pairs.find((each) => each.pair_id === asked.pair && String(each.round) === asked.of);
    const command = this.command(`--round ${quoted(asked.of)} --pair=${quoted(asked.pair)}`);
    if (!pair) return [this.closing(`pair ${asked.pair}`, ""), absent("This page does not hold this pair", command)];
    const problem = this.problems.get(`train/${pair.prompt_id}`) || (pair.prompt === undefined ? null : { prompt: pair.prompt, gold: null });
    const sides = ["chosen", "rejected"].map((side) => el("section", { class: "column" }, el("h4", {}, side), this.side(pair, side)));
    return [
      this.closing(`pair ${asked.pair}`, roundName(pair.round)),
      ...prompt(problem),
      el("div", { class: "columns", tabindex: "0", role: "region", "aria-label": "The two sides of the pair" }, sides),
      el("p", { class: "faint" }, "Log-probabilities, and the updates that used it: ", el("code", {}, said(command))),
    ];
  }

  side(pair, side) {
    const sample = pair[`${side}_sample`];
    const rows = this.ofProblem.get(`train/${pair.prompt_id}`) || [];
    const row = rows.find((each) => each.round === pair.round && each.sample === sample);
    if (row) {
      return [this.card(row, false), el("p", {}, el("a", { href: "#", onclick: (event) => {
        event.preventDefault();
        this.openRow(row);
      } }, `to sample ${row.sample} in its problem`))];
    }
    if (typeof pair[side] === "string") return el("article", { class: "card" }, written(pair[side]));
    return el("p", { class: "faint" }, side === "rejected" && (pair[side] === null || sample === null) ? "None: the chosen completion is imitated." : "This page does not hold it.");
  }

  closing(title, kind) {
    return el("div", { class: "detail-head" }, el("h3", {}, el("span", { class: "id" }, said(plain(title))), " ", el("span", { class: "faint" }, kind)),
      el("button", { type: "button", onclick: () => this.close(), "aria-label": "Close" }, "Close"));
  }

  close() {
    this.go(Object.fromEntries(OPEN.map((name) => [name, ""])));
  }

  command(options) {
    return `ratchet inspect ${quoted(this.folder)} ${options}`;
  }

  // Keys and fields.

  listen() {
    for (const name of FILTERS) {
      const field = byId(`f-${name}`);
      const typed = ["q", "min", "max"].includes(name);
      field.addEventListener("input", () => this.go({ [name]: CHECKS.includes(name) ? field.checked && "1" : field.value }, typed));
    }
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").addEventListener("reset", (event) => {
      event.preventDefault();
      this.go(Object.fromEntries(FILTERS.map((name) => [name, ""])));
    });
    byId("more").addEventListener("click", () => {
      this.count += PAGE;
      this.showList(this.asked());
    });
    byId("help-open").addEventListener("click", () => byId("help").showModal());
    for (const happens of ["popstate", "hashchange"]) addEventListener(happens, () => this.follow());
    addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || byId("help").open) return;
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "checkbox";
    if (event.key === "Escape") {
      if (typing) event.target.blur();
      else this.close();
      return;
    }
    if (typing) return;
    const actions = {
      j: () => this.move(1),
      k: () => this.move(-1),
      "/": () => byId("f-q").focus(),
      "?": () => byId("help").showModal(),
    };
    if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  }
}

function sampleKey(round, problem, sample) {
  return `${round}/${sample}/${problem}`;
}

function isOpen(row, asked) {
  const at = row.sample === null ? `${row.round}` : `${row.round}.${row.sample}`;
  return row.problem === asked.problem && row.split === asked.in && at === asked.at;
}

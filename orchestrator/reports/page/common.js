// What the pages share: reading the data block, filling sections, and how answers are shown.

const byId = (id) => document.getElementById(id);

async function read() {
  const packed = Uint8Array.from(atob(byId("data").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function put(id, ...nodes) {
  byId(id).replaceChildren(...nodes.flat().filter((node) => node !== null && node !== undefined));
}

function list(items) {
  return el("ul", {}, items.map((item) => el("li", {}, said(item))));
}

// Pairs of a round and a value, of the rounds that have one.
function known(rounds, value) {
  return rounds.map((round) => [round.round, value(round)]).filter(([, found]) => found !== null && found !== undefined);
}

function grouped(rows, key) {
  const groups = new Map();
  for (const row of rows) {
    const name = key(row);
    const group = groups.get(name);
    if (group) group.push(row);
    else groups.set(name, [row]);
  }
  return groups;
}

function distinct(rows, name) {
  return [...new Set(rows.map((row) => row[name]))].filter((value) => value !== null).sort();
}

function options(name, none, values) {
  byId(`f-${name}`).replaceChildren(...[["", none], ...values].map(([value, text]) => {
    const option = el("option", {}, plain(text));
    option.value = value;
    return option;
  }));
}

function verdictOf(row) {
  return el("span", { class: `badge ${["correct", "wrong"].includes(row.verdict) ? row.verdict : "ungradable"}` }, said(plain(row.verdict)));
}

function flipOf(row) {
  return row.flip ? el("span", { class: `badge ${row.flip}` }, row.flip) : null;
}

// What was extracted by which rule, and why the verdict is what it is.
function why(row) {
  const parts = [];
  if (row.extracted !== null) parts.push(el("span", {}, "reads ", el("code", { dir: "auto" }, said(plain(row.extracted))), row.rule ? [" by ", ...said(plain(row.rule))] : null));
  for (const reason of [row.cause, row.reason]) if (reason) parts.push(el("span", {}, said(plain(reason))));
  if (row.finish_reason === "length" && row.cause !== "truncated") parts.push(el("span", {}, "truncated"));
  return parts.length ? el("p", { class: "why" }, parts.flatMap((part, at) => (at ? [", ", part] : [part]))) : null;
}

function written(text) {
  return el("pre", { class: "text", dir: "auto" }, said(text));
}

function prompt(problem) {
  if (!problem) return [];
  const gold = problem.gold === null ? null : el("p", {}, "gold answer ", el("code", { dir: "auto" }, said(plain(problem.gold))));
  return [el("pre", { class: "text prompt", dir: "auto" }, said(problem.prompt)), gold].filter(Boolean);
}

function absent(what, command) {
  return el("p", {}, `${what}: `, el("code", {}, said(command)), " shows it.");
}

// Links to sections move the reader and leave the address as it is, which keeps what is asked for.
function followSections() {
  for (const link of document.querySelectorAll('nav a, a.skip')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();  // the address keeps what the samples are filtered by
      const section = document.querySelector(link.getAttribute("href"));
      section.setAttribute("tabindex", "-1");
      section.focus();
      section.scrollIntoView();
    });
  }
}

// Read the page's data and show it; `elsewhere` says where its figures stand, too.
function start(show, elsewhere) {
  read().then(show).then(
    () => document.body.setAttribute("data-ready", "true"),
    (error) => {
      byId("failure").hidden = false;
      byId("failure").textContent = `This page could not be shown whole by this browser (${error}). ${elsewhere}`;
    },
  );
}

// Charts in SVG. Each has a caption, a legend of words beside its colours, and says its figures to screen readers.

const WIDTH = 440, HEIGHT = 230;
const BOX = { left: 46, right: 10, top: 12, bottom: 30 };
const INNER = { width: WIDTH - BOX.left - BOX.right, height: HEIGHT - BOX.top - BOX.bottom };

// Round steps for an axis from low to high, none of them below `least`.
function ticks(low, high, count = 5, least = 0) {
  const raw = Math.max((high - low) / count || 1, least);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw - 1e-12 * power);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step + 0; at <= high + step * 1e-9; at += step) found.push(at);
  return { found, step };
}

function extent(values, zero = false) {
  const known = values.filter((value) => Number.isFinite(value));
  if (!known.length) return null;
  let low = zero ? 0 : Infinity, high = zero ? 0 : -Infinity;
  for (const value of known) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const pad = high > low ? 0.06 * (high - low) : Math.abs(high) * 0.1 || 1;
  return { low: zero && low === 0 ? 0 : low - pad, high: high + pad };
}

function scaleY({ low, high }) {
  return (value) => BOX.top + INNER.height * (1 - (value - low) / (high - low));
}

function axisY(range, label, least = 0) {
  const y = scaleY(range);
  const { found, step } = ticks(range.low, range.high, 5, least);
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
  return found.flatMap((at) => [
    svg("line", { class: "grid", x1: BOX.left, x2: WIDTH - BOX.right, y1: y(at), y2: y(at) }),
    svg("text", { class: "tick end", x: BOX.left - 6, y: y(at) + 4 }, label(at, digits)),
  ]);
}

function legend(series) {
  if (series.length < 2) return null;
  return el("ul", { class: "legend", "aria-hidden": "true" }, series.map((each) =>
    el("li", {}, svg("svg", { viewBox: "0 0 22 10", width: 22, height: 10 },
      each.block
        ? svg("rect", { class: `fill ${each.colour}`, x: 4, y: 0, width: 12, height: 10 })
        : svg("line", { class: `line ${each.colour}`, x1: 1, x2: 21, y1: 5, y2: 5 })), " ", each.name)
  ));
}

function figure(title, unit, description, parts, series) {
  return el(
    "figure", { class: "chart" },
    el("figcaption", {}, title, unit ? el("span", { class: "unit" }, ` ${unit}`) : null),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": plain(`${title}. ${description}`) }, parts),
    legend(series),
  );
}

function titled(node, text) {
  node.append(svg("title", {}, text));
  return node;
}

// Lines by round, with intervals where a series has `low` and `high`. A series: {name, colour, points: [[round, {…}]]}.
function byRound(title, unit, rounds, series, { label = (at, digits) => number(at, digits), name = number, zero = false } = {}) {
  series = series.filter((each) => each.points.length);
  const range = extent(series.flatMap((each) => each.points.flatMap(([, p]) => [p.value, p.low, p.high])), zero);
  if (!range) return null;
  const y = scaleY(range), x = bandX(rounds);
  const parts = [...axisY(range, label), ...axisRounds(rounds, x)];
  series.forEach((each, at) => {
    const shift = (at - (series.length - 1) / 2) * 5;
    const place = ([round, point]) => [x.middle(round) + shift, y(point.value)];
    parts.push(svg("path", { class: `line ${each.colour}`, d: path(each.points.map(place)) }));
    for (const one of each.points) {
      const [cx, cy] = place(one);
      const [round, point] = one;
      const known = Number.isFinite(point.low);
      if (known) parts.push(svg("path", { class: `bar ${each.colour}`, d: whisker(cx, y(point.low), y(point.high)) }));
      const between = known ? ` [${name(point.low)}, ${name(point.high)}]` : "";
      parts.push(titled(svg("circle", { class: `dot ${each.colour}`, cx, cy, r: 3.5 }), `${each.name}, ${roundName(round)}: ${name(point.value)}${between}`));
    }
  });
  const spoken = series.map((each) => `${each.name}: ${each.points.map(([r, p]) => `${roundName(r)} ${name(p.value)}`).join(", ")}`);
  return figure(title, unit, spoken.join("; "), parts, series);
}

function whisker(x, low, high) {
  return `M${x - 4} ${low}H${x + 4}M${x} ${low}V${high}M${x - 4} ${high}H${x + 4}`;
}

function path(points) {
  return points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function bandX(rounds) {
  const band = INNER.width / Math.max(1, rounds.length);
  return { band, middle: (round) => BOX.left + band * (rounds.indexOf(round) + 0.5) };
}

function axisRounds(rounds, x) {
  const every = Math.ceil(rounds.length / 12);
  return rounds.filter((_, at) => at % every === 0).map((round) =>
    svg("text", { class: "tick middle", x: x.middle(round), y: HEIGHT - 12 }, round === 0 ? "base" : `${round}`)
  );
}

// Bars by round, stacked or side by side. A series: {name, colour, block: true, values: Map of round to number}.
// They count something, unless `least`, the least step of the axis, says otherwise.
function bars(title, unit, rounds, series, { stacked = false, name = (v) => number(v), least = 1 } = {}) {
  series = series.filter((each) => [...each.values.values()].some((value) => value > 0));
  if (!series.length) return null;
  const of = (each, round) => each.values.get(round) || 0;
  const tops = rounds.map((round) => stacked ? series.reduce((sum, each) => sum + of(each, round), 0) : Math.max(...series.map((each) => of(each, round))));
  const range = { low: 0, high: 1.05 * Math.max(...tops) || 1 };
  const y = scaleY(range), x = bandX(rounds);
  const parts = [...axisY(range, (at, digits) => number(at, digits), least), ...axisRounds(rounds, x)];
  const whole = Math.min(46, 0.7 * x.band);
  for (const round of rounds) {
    let below = 0;
    series.forEach((each, at) => {
      const value = of(each, round);
      if (!value) return;
      const width = stacked ? whole : whole / series.length;
      const left = x.middle(round) - whole / 2 + (stacked ? 0 : at * width);
      const bar = svg("rect", { class: `fill ${each.colour}`, x: left, width: Math.max(1, width - 1), y: y(below + value), height: Math.max(0, y(below) - y(below + value) - 0.5) });
      parts.push(titled(bar, `${each.name}, ${roundName(round)}: ${name(value)}`));
      if (stacked) below += value;
    });
  }
  const spoken = series.map((each) => `${each.name}: ${rounds.map((round) => `${roundName(round)} ${name(of(each, round))}`).join(", ")}`);
  return figure(title, unit, spoken.join("; "), parts, series);
}

// Curves by update, the rounds one after another. A series: {name, colour, column}.
function curves(title, unit, all, series, zero) {
  series = series.filter((each) => all.some((of) => (of[each.column] || []).some((value) => value !== null)));
  const range = extent(all.flatMap((of) => series.flatMap((each) => (of[each.column] || []).filter((v) => v !== null))), zero);
  if (!range) return null;
  const lengths = all.map((of) => Math.max(...of.updates));
  const total = lengths.reduce((sum, each) => sum + each, 0);
  const x = (update) => BOX.left + (INNER.width * update) / total;
  const y = scaleY(range);
  const parts = axisY(range, (at, digits) => number(at, digits));
  const { found } = ticks(0, total, 4);
  parts.push(...found.map((at) => svg("text", { class: "tick middle", x: x(at), y: HEIGHT - 12 }, number(at))));
  let before = 0;
  all.forEach((of, at) => {
    if (at) parts.push(svg("line", { class: "boundary", x1: x(before), x2: x(before), y1: BOX.top, y2: HEIGHT - BOX.bottom }));
    if (INNER.width / all.length > 34) parts.push(svg("text", { class: "tick faint", x: x(before) + 4, y: BOX.top + 9 }, `r ${of.round}`));
    for (const each of series) {
      const points = [];
      (of[each.column] || []).forEach((value, i) => {
        if (value !== null) points.push([x(before + of.updates[i]), y(value)]);
      });
      if (points.length === 1) parts.push(svg("circle", { class: `dot ${each.colour}`, cx: points[0][0], cy: points[0][1], r: 3 }));
      else if (points.length) parts.push(svg("path", { class: `line ${each.colour}`, d: path(points) }));
    }
    before += lengths[at];
  });
  const ends = all.flatMap((of) => series.map((each) => {
    const known = (of[each.column] || []).filter((value) => value !== null);
    return known.length ? `${each.name}, ${roundName(of.round)}: from ${number(known[0], 3)} to ${number(known[known.length - 1], 3)}` : null;
  })).filter(Boolean);
  return figure(title, unit, ends.join("; "), parts, series);
}

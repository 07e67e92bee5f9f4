"use strict";
// Everything that comes from the program is put in as text, never as HTML.
(() => {
  const here = document.body.dataset.here;
  const KEPT = 120; // states of each sparkline: two minutes at one a second
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  let state = null; // what the program said last
  let received = 0; // when, by this page's clock
  let lostSince = null;
  let history = new Map();
  let before = null; // the state before, for rates

  // ---- elements ----------------------------------------------------------
  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key === "on") for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
      else node.setAttribute(key, value === true ? "" : String(value));
    }
    node.append(...children.flat().filter((it) => it !== null && it !== undefined && it !== "").map((it) => (it instanceof Node ? it : String(it))));
    return node;
  }
  function svg(tag, attributes, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
    if (text !== undefined) node.textContent = text;
    return node;
  }
  // Fills a cell again only if what it shows is another: focus, selection and open details stay.
  function fill(cell, shown, build) {
    const sign = JSON.stringify(shown);
    if (cell.sign === sign) return;
    cell.sign = sign;
    cell.replaceChildren(...[build(shown)].flat().filter((it) => it !== null && it !== undefined && it !== ""));
  }
  // One row for each item, in order, and the rows of before are used again.
  function rows(body, items, keyOf, make, update) {
    const known = new Map([...body.children].map((row) => [row.key, row]));
    let at = body.firstElementChild;
    const seen = new Map();
    for (const item of items) {
      // Two of one key are told apart by their order.
      const twin = seen.get(keyOf(item)) || 0;
      seen.set(keyOf(item), twin + 1);
      const key = twin ? `${keyOf(item)}/${twin}` : keyOf(item);
      let row = known.get(key);
      known.delete(key);
      if (!row) { row = make(item); row.key = key; }
      update(row, item);
      if (row === at) at = at.nextElementSibling;
      else body.insertBefore(row, at);
    }
    for (const row of known.values()) row.remove();
  }
  function tableRow(columns) {
    return () => el("tr", {}, el("th", { scope: "row" }), ...Array.from({ length: columns - 1 }, () => el("td")));
  }

  // ---- words -------------------------------------------------------------
  const number = (n) => Number(n).toLocaleString("en");
  const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
  const plural = (n, one, many) => `${number(n)} ${n === 1 ? one : many}`;
  function span(ms) {
    if (ms < 10) return `${ms.toFixed(1)} ms`;
    if (ms < 999.5) return `${Math.round(ms)} ms`;
    if (ms < 10000) return `${(ms / 1000).toFixed(1)} s`;
    const s = Math.floor(ms / 1000);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
  }
  // A time that goes on between two states.
  function clock(kind, ms) {
    const node = el("span", {});
    node.clock = { kind, ms, at: received };
    tell(node);
    return node;
  }
  function tell(node) {
    const { kind, ms, at } = node.clock;
    const passed = lostSince ? 0 : performance.now() - at;
    const wall = () => new Date(Date.now() - (ms + passed)).toLocaleTimeString();
    const text = { since: (t) => `for ${span(t)}`, from: (t) => `since ${wall()} (${span(t)})`, ago: (t) => `${span(t)} ago`, until: (t) => (t > 0 ? `in ${span(t)}` : "at any moment") };
    const value = text[kind](kind === "until" ? Math.max(0, ms - passed) : ms + passed);
    if (node.textContent !== value) node.textContent = value;
  }
  // Where a clock stands is told beside it: what it began with is no news.
  const rough = (ms) => (ms === null || ms === undefined ? null : Math.round((received - ms) / 2000));
  const roughUntil = (ms) => (ms === null || ms === undefined ? null : Math.round((received + ms) / 2000));

  // ---- history -----------------------------------------------------------
  function keep(key, value) {
    let values = history.get(key);
    if (!values) history.set(key, (values = []));
    values.push(value);
    if (values.length > KEPT) values.shift();
    return values;
  }
  function spark(key, value, label, unit = span) {
    const values = keep(key, value);
    const most = Math.max(...values, 1e-9);
    label = `${label}, up to ${unit(Math.max(...values))}`;
    const points = values.map((v, i) => `${(KEPT - values.length + i) * (100 / (KEPT - 1))},${(19 - 18 * (v / most)).toFixed(2)}`);
    const node = svg("svg", { viewBox: "0 0 100 20", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": `${label}, the last two minutes` });
    node.append(svg("polyline", { points: points.join(" ") }));
    return el("div", { class: "faint" }, node, label);
  }
  // How many a second since the state before.
  function rate(section, name, count) {
    const key = `count/${section}/${name}`;
    const last = before && before.get(key);
    const now = performance.now();
    counts.set(key, { count, now });
    if (!last || now <= last.now) return 0;
    return Math.max(0, ((count - last.count) * 1000) / (now - last.now));
  }
  let counts = new Map();

  // ---- parts -------------------------------------------------------------
  // How much of something is used, or left.
  function meter(share, text, left = false) {
    const node = el("meter", { min: 0, max: 1, low: left ? 0.2 : 0.5, high: left ? 0.5 : 0.8, optimum: left ? 1 : 0, value: share, "aria-hidden": "true" });
    return el("div", {}, node, text);
  }
  // That all is in use is no trouble by itself.
  function bar(share, text) {
    return el("div", {}, el("meter", { min: 0, max: 1, value: share, "aria-hidden": "true" }), text);
  }
  // What there has been some of.
  function list(counts) {
    const some = counts.filter(([, n]) => n > 0);
    return some.length ? some.map(([what, n]) => `${number(n)} ${what}`).join(", ") : el("span", { class: "faint" }, "none");
  }
  function times(it) {
    if (!it || !it.count) return el("span", { class: "faint" }, "none");
    return el("span", {}, `p50 ${span(it.p50_ms)}, p99 ${span(it.p99_ms)} of ${number(it.count)}`);
  }
  const configs = new Map(); // effective config by pattern and name, for the dialog
  function more(cell, pattern, item, buttons) {
    configs.set(`${pattern}/${item.name}`, item.config);
    fill(cell, [pattern, item.name, item.config, item.shadow, state.commands], () => {
      const parts = [];
      if (item.shadow) parts.push(el("p", {}, item.shadow));
      if (item.config) parts.push(el("details", {}, el("summary", {}, "Settings"), el("pre", {}, JSON.stringify(item.config, null, 1))));
      if (state.commands) {
        const all = [...buttons, ...(item.config ? [["Change settings", "config"]] : [])];
        const run = all.map(([label, action]) => el("button", { type: "button", "aria-label": `${label}: ${item.name}`, on: { click: () => ask(pattern, item.name, label, action) } }, label));
        if (run.length) parts.push(el("details", {}, el("summary", {}, "Commands"), run));
      }
      return parts;
    });
  }
  function section(id, data, columns, update) {
    const place = $(id);
    place.hidden = !data || data.rows.length === 0;
    if (place.hidden) return;
    rows(place.querySelector("tbody"), data.rows, (it) => `${it.pattern || ""}/${it.name}`, tableRow(columns), update);
    place.querySelector(".more").textContent = data.more > 0 ? `and ${number(data.more)} more that are better off` : "";
  }
  function names(list, total) {
    if (list.length === 0) return el("span", { class: "faint" }, "nobody");
    const shown = list.slice(0, 5).map((it) => el("li", {}, it.name, " ", el("span", { class: "faint" }, clock("since", it.ms), it.permits > 1 ? `, ${it.permits} permits` : "")));
    const rest = total - Math.min(5, list.length);
    if (rest > 0) shown.push(el("li", { class: "faint" }, `and ${number(rest)} more`));
    return el("ul", { class: "plain" }, shown);
  }
  const namesSign = (list, total) => [list.slice(0, 5).map((it) => [it.name, rough(it.ms), it.permits]), total];

  function showRow(pattern, name) {
    const place = { circuit_breaker: "circuit-breakers", resource_lock: "resource-locks", rate_limit: "rate-limits", retry: "retries" }[pattern] || "others";
    const row = [...$(place).querySelectorAll("tbody tr")].find((it) => it.firstElementChild.textContent === name);
    if (!row) return;
    row.scrollIntoView({ block: "center" });
    row.classList.add("found");
    setTimeout(() => row.classList.remove("found"), 2500);
    const focus = row.querySelector("summary, button");
    if (focus) focus.focus({ preventScroll: true });
  }

  // ---- the page ----------------------------------------------------------
  function problems() {
    rows($("problem-list"), state.problems, (it) => `${it.pattern}/${it.name}/${it.short}`, () => el("li", {}), (card, it) => {
      card.className = it.severity;
      fill(card, [it.severity, it.text, rough(it.since_ms), roughUntil(it.until_ms)], () => {
        const kind = { error: "Error", warning: "Warning", notice: "Note" }[it.severity];
        const when = [];
        if (it.since_ms !== null) when.push(clock("from", it.since_ms));
        if (it.until_ms !== null) when.push(when.length ? "; " : "", `${it.then} `, clock("until", it.until_ms));
        const go = el("button", { type: "button", class: "go", "aria-label": `Show ${it.name} below`, on: { click: () => showRow(it.pattern, it.name) } }, "Show");
        return [el("span", { class: "kind" }, kind), it.text, when.length ? el("span", { class: "times" }, when) : null, go];
      });
    });
    $("problems").hidden = state.problems.length === 0;
    const worst = state.problems.some((it) => it.severity === "error") ? "error" : state.problems.some((it) => it.severity === "warning") ? "warning" : "well";
    const headline = $("headline");
    headline.className = worst;
    // Said again only if it is another: a screen reader reads each change.
    if (headline.textContent !== state.headline) headline.textContent = state.headline;
  }
  function breakers() {
    section("circuit-breakers", state.circuit_breakers, 7, (row, it) => {
      const [name, status, trip, probes, calls, totals, rest] = row.children;
      fill(name, it.name, (text) => text);
      fill(status, [it.state, it.would_be, it.cause, it.last_failure, rough(it.since_ms), roughUntil(it.until_ms)], () => [
        el("span", { class: `state ${it.state}` }, it.state.replace("_", "-")),
        it.would_be ? ` would be ${it.would_be.replace("_", "-")}` : null,
        el("div", { class: "faint" }, clock("from", it.since_ms), it.until_ms !== null ? "; the next probe " : "", it.until_ms !== null ? clock("until", it.until_ms) : ""),
        it.cause ? el("div", {}, it.cause) : null,
        it.last_failure ? el("div", { class: "faint" }, `last failure: ${it.last_failure}`) : null,
      ]);
      fill(trip, it.distances, (list) => list.map((d) => meter(d.share, d.text)));
      fill(probes, [it.state, it.probes, it.max_probes, it.succeeded, it.needed], () => (it.state === "half_open" ? `${it.probes} of ${it.max_probes} on their way, ${it.succeeded} of ${it.needed} have succeeded` : el("span", { class: "faint" }, "only while half-open")));
      const t = it.totals;
      const made = t.successes + t.failures + t.overloads + t.ignored + t.cancelled;
      const perSecond = rate("made", it.name, made);
      const refused = rate("refused", it.name, t.rejected);
      fill(calls, [perSecond, refused, received], () => [`${perSecond.toFixed(1)} let through, ${refused.toFixed(1)} refused`, spark(`failed/${it.name}`, rate("failed", it.name, t.failures), "failures", (n) => `${n.toFixed(1)} per second`)]);
      fill(totals, t, () => list([["succeeded", t.successes], ["failed", t.failures], ["refused by the service (overload)", t.overloads], ["cancelled", t.cancelled], ["slow", t.slow], ["refused", t.rejected]]));
      more(rest, "circuit_breaker", it, [["Force open", "force_open"], ["Close", "force_close"], ["Disable", "disable"], ["Only watch", "metrics_only"], ["Reset", "reset"]]);
    });
  }
  function locks() {
    section("resource-locks", state.resource_locks, 8, (row, it) => {
      const [name, permits, holders, waiters, waits, holds, refused, rest] = row.children;
      fill(name, it.name, (text) => text);
      fill(permits, [it.in_use, it.capacity, it.closed], () => bar(Math.min(1, it.in_use / Math.max(1, it.capacity)), `${number(it.in_use)} of ${number(it.capacity)}${it.closed ? ", closed" : ""}`));
      fill(holders, namesSign(it.holders, it.more_holders), () => names(it.holders, it.holders.length + it.more_holders));
      fill(waiters, namesSign(it.waiters, it.waiting), () => names(it.waiters, it.waiting));
      fill(waits, [it.wait, received], () => [times(it.wait), spark(`wait/${it.name}`, it.wait.p99_ms, "p99 of waits")]);
      fill(holds, [it.hold, received], () => [times(it.hold), spark(`hold/${it.name}`, it.hold.p99_ms, "p99 of holds")]);
      fill(refused, it.refused, (r) => {
        return list([["timed out", r.timed_out], ["at once", r.at_once], ["deadlocks", r.deadlock], ["shed", r.shed], ["closed", r.closed]]);
      });
      more(rest, "resource_lock", it, [["Set capacity", "capacity"], ["Reset statistics", "reset"]]);
    });
  }
  function limits() {
    section("rate-limits", state.rate_limits, 6, (row, it) => {
      const [name, quotas, waiting, waits, calls, rest] = row.children;
      fill(name, it.name, (text) => text);
      fill(quotas, [it.quotas, it.paused_ms], () => [
        ...it.quotas.map((q) => meter(Math.min(1, q.available / Math.max(1, q.burst)), `${q.name}: ${number(q.available)} of ${number(q.burst)} left${q.owed ? `, ${number(q.owed)} owed` : ""}`, true)),
        it.paused_ms !== null ? el("div", {}, "paused; it goes on ", clock("until", it.paused_ms)) : null,
      ]);
      fill(waiting, [it.waiting, received], () => [number(it.waiting), spark(`waiting/${it.name}`, it.waiting, "calls that wait", number)]);
      fill(waits, it.wait, times);
      const t = it.totals;
      fill(calls, t, () => list([["at once", t.passed], ["after a wait", t.waited], ["refused", t.refused], ["gone before their turn", t.abandoned]]));
      more(rest, "rate_limit", it, [["Reset", "reset"]]);
    });
  }
  function retries() {
    section("retries", state.retries, 5, (row, it) => {
      const [name, ratio, budget, calls, rest] = row.children;
      fill(name, it.name, (text) => text);
      fill(ratio, [it.ratio, received], () => [percent(it.ratio), spark(`retry/${it.name}`, rate("retries", it.name, it.retries), "retries", (n) => `${n.toFixed(1)} per second`)]);
      fill(budget, it.budget, (n) => (n === null ? el("span", { class: "faint" }, "no budget, or one that does not say") : plural(n, "retry", "retries")));
      fill(calls, [it.calls, it.recovered, it.gave_up], () => `${plural(it.calls, "call", "calls")}, ${number(it.recovered)} saved by a retry, ${number(it.gave_up)} given up`);
      more(rest, "retry", it, []);
    });
  }
  function others() {
    section("others", state.others, 5, (row, it) => {
      const [name, kind, text, calls, rest] = row.children;
      fill(name, it.name, (t) => t);
      fill(kind, it.pattern, (t) => t);
      fill(text, it.text, (t) => t);
      const seen = it.extra && it.extra.count !== undefined ? it.extra : null;
      fill(calls, [seen, seen ? received : 0], () => (seen ? [times(seen), spark(`calls/${it.pattern}/${it.name}`, seen.p99_ms, "p99 of calls")] : el("span", { class: "faint" }, "not measured")));
      const buttons = { chaos: [["Arm", "arm"], ["Disarm", "disarm"]], throttle: [["Reset", "reset"]] }[it.pattern] || [];
      more(rest, it.pattern, it, buttons);
    });
  }
  function groups() {
    $("groups").hidden = state.groups.length === 0;
    rows($("group-list"), state.groups, (it) => it.name, () => el("div", {}, el("h3", {}), el("ul", {})), (place, group) => {
      const [title, list] = place.children;
      title.textContent = `${group.name}: ${plural(group.keys, "key", "keys")}${group.keys > group.rows.length ? `, the ${group.rows.length} worst` : ""}`;
      fill(list, group.rows.map((it) => [it.key, brief(group.pattern, it.row)]), (shown) => shown.map(([key, text]) => el("li", {}, el("b", {}, key), ` ${text}`)));
    });
  }
  function brief(pattern, row) {
    if (pattern === "circuit_breaker") return `${row.state.replace("_", "-")}${row.cause ? `: ${row.cause}` : ""}${row.last_failure ? ` (last failure: ${row.last_failure})` : ""}, ${number(row.totals.rejected)} refused`;
    if (pattern === "resource_lock") return `${row.in_use} of ${row.capacity} permits in use, ${plural(row.waiting, "waiter", "waiters")}`;
    return row.quotas.map((q) => `${q.name}: ${number(q.available)} of ${number(q.burst)} left`).join(", ");
  }
  function events() {
    $("events").hidden = state.events.length === 0;
    rows($("events").querySelector("tbody"), state.events, (it) => String(it.position), tableRow(3), (row, it) => {
      const [when, name, what] = row.children;
      fill(when, it.position, () => clock("ago", it.age_ms));
      fill(name, it.name, (t) => t);
      fill(what, it.text, (t) => t);
    });
  }

  function operators() {
    $("operators").hidden = state.operators.length === 0;
    rows($("operators").querySelector("ul"), state.operators, (it) => String(it.number), () => el("li", {}), (item, it) => {
      fill(item, it.number, () => [clock("ago", it.age_ms), ` ${it.operator}: ${it.text}`]);
    });
  }

  // ---- the graph ---------------------------------------------------------
  // Waiters, what they wait for, and who holds that: a resource with many permits is one knot, not each with each.
  function knots(edges) {
    const found = new Map();
    for (const it of edges) {
      if (!found.has(it.resource)) found.set(it.resource, { resource: it.resource, waiters: new Map(), holders: new Map() });
      const knot = found.get(it.resource);
      knot.waiters.set(it.waiter, knot.waiters.get(it.waiter) || it.deadlock);
      knot.holders.set(it.holder, knot.holders.get(it.holder) || it.deadlock);
    }
    return [...found.values()];
  }
  function some(names, most) {
    const shown = names.slice(0, most).join(", ");
    return names.length > most ? `${shown} and ${number(names.length - most)} more` : shown;
  }
  function graph() {
    const { edges, more: rest } = state.graph;
    $("graph").hidden = edges.length === 0;
    const shown = knots(edges).map((it) => ({ resource: it.resource, waiters: [...it.waiters], holders: [...it.holders] }));
    fill($("graph-list"), [shown, rest], () => [
      ...shown.map((it) => {
        const deadlock = it.waiters.some(([, marked]) => marked);
        const waiters = it.waiters.map(([name]) => name);
        return el("li", { class: deadlock ? "deadlock" : null }, `${some(waiters, 8)} ${waiters.length === 1 ? "waits" : "wait"} for ${it.resource}, held by ${some(it.holders.map(([name]) => name), 8)}${deadlock ? ": in a circle, a deadlock" : ""}`);
      }),
      rest > 0 ? el("li", {}, `and ${number(rest)} more waits`) : null,
    ]);
    fill($("graph-picture"), shown.slice(0, 12), picture);
  }
  function picture(shown) {
    // Somebody, or something; a circle is cut where it is met again.
    const next = new Map();
    const lines = [];
    const line = (from, to, deadlock) => {
      for (const it of [from, to]) if (!next.has(it)) next.set(it, []);
      next.get(from).push(to);
      lines.push({ from, to, deadlock });
    };
    for (const { resource, waiters, holders } of shown) {
      const knot = `r/${resource}`;
      const most = 10;
      for (const [name, deadlock] of waiters.slice(0, most)) line(`p/${name}`, knot, deadlock);
      if (waiters.length > most) line(`m/${number(waiters.length - most)} more`, knot, false);
      for (const [name, deadlock] of holders.slice(0, most)) line(knot, `p/${name}`, deadlock);
      if (holders.length > most) line(knot, `m/${number(holders.length - most)} more, of ${resource}`, false);
    }
    const depth = new Map();
    const measure = (it, path) => {
      if (depth.has(it)) return depth.get(it);
      if (path.has(it)) return 0;
      path.add(it);
      const deepest = Math.max(0, ...next.get(it).map((to) => 1 + measure(to, path)));
      path.delete(it);
      depth.set(it, Math.min(deepest, 12));
      return depth.get(it);
    };
    for (const it of next.keys()) measure(it, new Set());
    const deepest = Math.max(...depth.values(), 1);
    const [wide, high, gapX, gapY] = [165, 28, 55, 14];
    const columns = Array.from({ length: deepest + 1 }, () => []);
    for (const [it, d] of depth) columns[deepest - d].push(it);
    const tallest = Math.max(...columns.map((it) => it.length));
    const place = new Map();
    columns.forEach((list, x) => list.forEach((it, y) => place.set(it, { x: 10 + x * (wide + gapX), y: 14 + (y + (tallest - list.length) / 2) * (high + gapY) })));
    const height = 20 + tallest * (high + gapY);
    const width = 20 + columns.length * wide + deepest * gapX;
    const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "Who waits for what, and who holds it: the same as the list below" });
    for (const { from, to, deadlock } of lines) {
      const [a, b] = [place.get(from), place.get(to)];
      const kind = deadlock ? " deadlock" : "";
      const [x1, y1, y2] = [a.x + wide, a.y + high / 2, b.y + high / 2];
      const back = b.x <= a.x;
      const x2 = back ? b.x + wide : b.x;
      const bend = back ? 60 : (x2 - x1) / 2;
      node.append(svg("path", { class: `edge${kind}`, d: `M${x1},${y1} C${x1 + bend},${y1} ${back ? x2 + bend : x2 - bend},${y2} ${back ? x2 + 6 : x2 - 6},${y2}` }));
      node.append(svg("path", { class: `tip${kind}`, d: back ? `M${x2},${y2} l8,-4 l0,8 z` : `M${x2},${y2} l-8,-4 l0,8 z` }));
    }
    for (const [it, { x, y }] of place) {
      const name = it.slice(2);
      const thing = it.startsWith("r/");
      node.append(svg("rect", { class: thing ? "box thing" : "box", x, y, width: wide, height: high, rx: thing ? 14 : 4 }));
      node.append(svg("text", { x: x + wide / 2, y: y + 18, "text-anchor": "middle" }, name.length > 23 ? `${name.slice(0, 22)}…` : name));
    }
    return node;
  }

  // ---- commands ----------------------------------------------------------
  let asked = null;
  function ask(pattern, name, label, action) {
    const field = { capacity: "How many permits", config: "Settings that are to be others, as JSON", arm: "For how many seconds (at most 3600)" }[action];
    asked = { pattern, name, action, before: JSON.stringify(configs.get(`${pattern}/${name}`) || {}) };
    $("ask-title").textContent = `${label}: ${name}`;
    $("ask-text").textContent = "It takes effect at once, for every caller, and is written to the log with your name.";
    $("ask-field").hidden = !field;
    $("ask-label").textContent = field || "";
    const config = configs.get(`${pattern}/${name}`);
    $("ask-value").value = action === "config" ? JSON.stringify(config, null, 1) : action === "capacity" && config ? config.max_concurrent : action === "arm" ? "60" : "";
    $("ask-value").rows = action === "config" ? 12 : 1;
    $("ask").showModal();
  }
  $("ask").addEventListener("close", () => {
    if ($("ask").returnValue === "do" && asked) command(asked, $("ask-value").value);
    $("ask").returnValue = "";
  });
  function changed(from, to) {
    if (to === null || typeof to !== "object") return to;
    return Object.fromEntries(Object.entries(to).filter(([key, value]) => JSON.stringify(value) !== JSON.stringify(from[key])));
  }
  async function command({ pattern, name, action, before }, value) {
    let done = action;
    try {
      // Only what differs: somebody else may have changed the rest meanwhile.
      if (action === "config") done = { config: changed(JSON.parse(before), JSON.parse(value)) };
      else if (action === "capacity" || action === "arm") done = { [action]: Number.parseInt(value, 10) };
    } catch (error) {
      return toast(`This is no JSON: ${error.message}`);
    }
    try {
      const answer = await fetch(`${here}/api/command`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-bulwark-command": "1" },
        body: JSON.stringify({ pattern, name, action: done }),
      });
      const said = await answer.json();
      toast(said.done ? `${name}: ${said.done}` : `${name}: ${said.error}`);
    } catch {
      toast(`${name}: the command did not arrive`);
    }
  }
  let toastEnds = 0;
  function toast(text) {
    $("toast").textContent = text;
    toastEnds = performance.now() + 8000;
  }

  // ---- states as they come -----------------------------------------------
  function show(next) {
    if (state && state.instance !== next.instance) {
      history = new Map();
      before = null;
      toast("The program has been started again.");
    }
    state = next;
    received = performance.now();
    counts = new Map();
    configs.clear();
    document.title = state.title;
    $("title").textContent = state.title;
    for (const part of [problems, breakers, locks, graph, limits, retries, others, groups, events, operators]) part();
    before = counts;
    connected();
  }
  function connected() {
    lostSince = null;
    document.body.classList.remove("lost");
    $("connection").classList.remove("lost");
    $("connection").textContent = `live, up ${state ? span(state.uptime_ms) : ""}`;
  }
  function lost() {
    if (lostSince === null) lostSince = performance.now();
    document.body.classList.add("lost");
    $("connection").classList.add("lost");
    $("connection").textContent = `no connection for ${span(performance.now() - lostSince)}: this is what was seen last`;
  }
  let source = null;
  function listen() {
    source = new EventSource(`${here}/api/events`);
    source.onmessage = (message) => show(JSON.parse(message.data));
    source.onerror = () => {
      lost();
      // An answer that is an error, such as too many readers, ends it for good.
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
    };
  }
  setInterval(() => {
    if (lostSince !== null) lost();
    // A connection that is open and says nothing is none.
    else if (state && performance.now() - received > Math.max(10000, 5 * state.every_ms)) { source.close(); lost(); listen(); }
    for (const node of document.querySelectorAll("span")) if (node.clock) tell(node);
    if (performance.now() > toastEnds) $("toast").textContent = "";
  }, 1000);
  listen();
})();

// The page of tower-bulwark's dashboard. No framework and no build step: it draws what the server says.
// Names and messages come from anybody, so everything goes into the page as text, never as markup.
"use strict";
(() => {
  const base = new URL(".", document.currentScript.src);
  const SVG = "http://www.w3.org/2000/svg";
  const SAMPLES = 120;
  const EVENTS = 200;

  const byId = (id) => document.getElementById(id);

  // What is known, all of it from the server.
  const known = {
    epoch: null,
    state: null,
    sample: -1,
    settingsVersion: null,
    told: new Set(),
    lines: new Map(),
    configs: new Map(),
    curves: new Map(),
    events: new Map(),
    lastEvent: 0,
    missed: 0,
    heard: 0,
    lostSince: null,
  };

  // ---- Small helpers ----

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    return fill(element, attributes, children);
  }

  function draw(tag, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // Leaves alone what is the same: a selection, a focus and a screen reader's place stay where they are.
  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function mark(element, name, value) {
    if (value === null || value === false) {
      element.removeAttribute(name);
    } else if (element.getAttribute(name) !== String(value)) {
      element.setAttribute(name, value);
    }
  }

  // Makes the children of `parent` those of `items`, and keeps the ones that are there already.
  function keep(parent, items, keyOf, create, update) {
    parent.kept ??= new Map();
    const next = new Map();
    let before = parent.firstElementChild;
    const focused = parent.contains(document.activeElement) ? document.activeElement : null;
    for (const item of items) {
      const key = keyOf(item);
      if (next.has(key)) continue;
      const child = parent.kept.get(key) ?? create(item);
      next.set(key, child);
      parent.kept.delete(key);
      update(child, item);
      if (child === before) {
        before = before.nextElementSibling;
      } else {
        parent.insertBefore(child, before);
      }
    }
    for (const child of parent.kept.values()) child.remove();
    parent.kept = next;
    // What is moved loses the focus.
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  }

  // In the order of the server; in the order that is there while somebody points at it, or has the focus in it: a button
  // that moves away is not the one that is pressed.
  function steady(parent, items, keyOf) {
    if (!parent.kept || !parent.matches(":hover, :focus-within")) return items;
    const places = new Map([...parent.kept.keys()].map((key, at) => [key, at]));
    const place = (item) => places.get(keyOf(item)) ?? Infinity;
    return [...items].sort((a, b) => (place(a) === place(b) ? 0 : place(a) - place(b)));
  }

  function number(value) {
    if (Math.abs(value) >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en-US");
    return value.toFixed(1);
  }

  function time(seconds) {
    if (seconds === 0) return "0 ms";
    if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
    if (seconds < 0.01) return `${(seconds * 1e3).toFixed(1)} ms`;
    if (seconds < 1) return `${Math.round(seconds * 1e3)} ms`;
    if (seconds < 10) return `${seconds.toFixed(1)} s`;
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
    return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
  }

  const FORMATS = {
    count: number,
    seconds: time,
    share: (value) => `${Math.round(value * 100)} %`,
    ratio: (value) => `${Math.round(value * 100)} %`,
    per_second: (value) => `${number(value)}/s`,
    text: (value) => value,
  };

  const clock = (millis) => new Date(millis).toLocaleTimeString("en-GB");

  const curveKey = (table, row) => `${table}\n${row}`;

  // ---- Problems ----

  function newCard(problem) {
    const card = make(
      "li",
      { class: "card" },
      make("p", { class: "who" }, make("span", { class: "badge" }), pointer(problem), " ", make("small")),
      make("p", { class: "what" }),
    );
    const table = tableOf(problem.table);
    if (known.state.commands && problem.state !== "deadlock" && table && table.commands.length > 0) {
      card.append(commandButton(table, problem.name));
    }
    return card;
  }

  // Leads from a problem to where it is shown: a row, or for a deadlock the graph.
  function pointer(problem) {
    const button = make("button", { type: "button", class: "name", title: "Show it below" });
    button.addEventListener("click", () => {
      const there = problem.state === "deadlock" ? byId("graph") : known.lines.get(curveKey(problem.table, problem.name));
      if (!there?.isConnected) return;
      there.scrollIntoView({ block: "center" });
      there.focus({ preventScroll: true });
    });
    return button;
  }

  function showCard(card, problem) {
    mark(card, "data-level", problem.level);
    const badge = card.querySelector(".badge");
    mark(badge, "data-level", problem.level);
    say(badge, problem.state.toUpperCase());
    const name = card.querySelector(".name");
    say(name, problem.name);
    mark(name, "aria-label", `${problem.name}: show it below`);
    const table = tableOf(problem.table);
    say(card.querySelector("small"), table ? table.group ?? problem.pattern.replaceAll("_", " ") : "");
    say(card.querySelector(".what"), problem.sentence);
  }

  const tableOf = (id) => known.state.tables.find((table) => table.id === id);

  function showProblems(state) {
    known.lines.clear();
    known.told = new Set(state.problems.map((it) => curveKey(it.table, it.name)));
    const list = byId("problem-list");
    const key = (it) => `${curveKey(it.table, it.name)}\n${it.state === "deadlock"} ${state.commands}`;
    keep(list, steady(list, state.problems, key), key, newCard, showCard);
    const more = byId("more-problems");
    more.hidden = state.more_problems === 0;
    say(more, `and ${number(state.more_problems)} more`);
  }

  // ---- Tables ----

  function newTable(table) {
    const head = make("tr", {}, make("th", { scope: "col" }, "Name"), make("th", { scope: "col" }, "State"));
    for (const column of table.columns) {
      head.append(make("th", { scope: "col", title: column.help }, column.title));
    }
    const commands = known.state.commands && table.commands.length > 0;
    if (commands) head.append(make("th", { scope: "col" }, "Operator"));
    const title = `title-${table.id}`;
    return make(
      "section",
      { "aria-labelledby": title },
      make("h2", { id: title }, make("span"), " ", make("small")),
      make(
        "div",
        { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": title },
        make(
          "table",
          {},
          make("caption", { class: "visually-hidden" }, `${table.title}, the worst first`),
          make("thead", {}, head),
          make("tbody"),
        ),
      ),
      make("ul", { class: "plain trials" }),
      make(
        "details",
        { class: "help" },
        make("summary", {}, "What the columns mean"),
        make("dl", {}, ...table.columns.flatMap((it) => [make("dt", {}, it.title), make("dd", {}, it.help)])),
      ),
    );
  }

  function showTable(section, table) {
    say(section.querySelector("h2 span"), table.title);
    const hidden = table.total - table.rows.length;
    const notes = [table.note ?? number(table.total)];
    if (hidden > 0) notes.push(`the worst ${number(table.rows.length)} are shown, and there are ${number(hidden)} more`);
    say(section.querySelector("h2 small"), notes.join("; "));
    const tried = table.rows.filter((row) => row.trial !== null);
    keep(section.querySelector(".trials"), tried, (row) => row.name, () => make("li"), (item, row) => say(item, `Trial on ${row.name}: ${row.trial}.`));
    const body = section.querySelector("tbody");
    const key = (row) => row.name;
    keep(body, steady(body, table.rows, key), key, (row) => newRow(table, row), (line, row) => showRow(line, table, row));
  }

  function newRow(table, row) {
    const line = make(
      "tr",
      { tabindex: "-1" },
      make("th", { scope: "row" }, make("span"), make("p")),
      make("td", {}, make("span", { class: "badge" })),
    );
    for (const column of table.columns) line.append(newCell(column));
    if (known.state.commands && table.commands.length > 0) {
      line.append(make("td", {}, commandButton(table, row.name)));
    }
    return line;
  }

  function newCell(column) {
    if (column.unit === "bars") return make("td", { class: "words" }, make("div"));
    const cell = make("td", { class: column.unit === "text" ? "words" : null }, make("span"));
    if (column.spark) {
      cell.append(draw("svg", { class: "spark", viewBox: `0 0 ${SAMPLES} 22`, preserveAspectRatio: "none", "aria-hidden": "true" }, draw("path")));
    }
    return cell;
  }

  function showRow(line, table, row) {
    const [head, state, ...cells] = line.children;
    say(head.firstElementChild, row.name);
    // A problem is told on top of the page already.
    const told = row.state === "deadlock" || known.told.has(curveKey(table.id, row.name));
    say(head.lastElementChild, told ? "" : row.text);
    known.lines.set(curveKey(table.id, row.name), line);
    mark(state.firstElementChild, "data-level", row.level);
    say(state.firstElementChild, row.state);
    const curves = known.curves.get(curveKey(table.id, row.name));
    table.columns.forEach((column, at) => {
      const value = row.cells[at];
      if (column.unit === "bars") {
        keep(cells[at].firstElementChild, value ?? [], (bar) => bar.label.replace(/[\d,.]+/g, "#"), newBar, showBar);
        return;
      }
      say(cells[at].firstElementChild, value === null ? "–" : FORMATS[column.unit](value));
      if (column.spark) showCurve(cells[at].lastElementChild.firstElementChild, curves?.[at]);
    });
  }

  function newBar() {
    return make(
      "div",
      {},
      make("span"),
      draw("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, draw("rect", { height: "4" })),
    );
  }

  function showBar(element, bar) {
    say(element.firstElementChild, bar.label);
    const share = bar.of > 0 ? bar.value / bar.of : 0;
    const bad = bar.full_is_bad ? share : 1 - share;
    mark(element.lastElementChild, "data-level", bad >= 1 ? "bad" : bad >= 0.5 ? "warn" : "ok");
    mark(element.lastElementChild.firstElementChild, "width", Math.round(share * 100));
  }

  // The newest point is at the right. A gap is a time of which nothing is known.
  function showCurve(path, points) {
    if (!points || path.shown === known.sample) return;
    path.shown = known.sample;
    const most = Math.max(...points.filter((it) => it !== null), 0) || 1;
    let line = "";
    let pen = "M";
    points.forEach((value, at) => {
      if (value === null) {
        pen = "M";
        return;
      }
      const x = SAMPLES - points.length + at + 1;
      line += `${pen}${x} ${(21 - (20 * value) / most).toFixed(1)}`;
      pen = "L";
    });
    mark(path, "d", line);
  }

  function remember(state) {
    if (state.sample === known.sample) return;
    const follows = state.sample === known.sample + 1;
    known.sample = state.sample;
    const kept = new Map();
    for (const table of state.tables) {
      for (const row of table.rows) {
        const key = curveKey(table.id, row.name);
        const curves = known.curves.get(key) ?? table.columns.map((it) => (it.spark ? [] : null));
        curves.forEach((points, at) => {
          if (!points) return;
          if (!follows && points.length > 0) points.push(null);
          points.push(row.cells[at]);
          points.splice(0, points.length - SAMPLES);
        });
        kept.set(key, curves);
      }
    }
    known.curves = kept;
  }

  // ---- The graph ----

  // Which column a node is in: one more than whoever leads to it. What leads back is drawn as a way back.
  function columnsOf(nodes, edges) {
    const column = nodes.map(() => 0);
    const out = nodes.map(() => []);
    edges.forEach((edge) => out[edge.from].push(edge.to));
    const state = nodes.map(() => 0);
    const order = [];
    const visit = (at) => {
      state[at] = 1;
      for (const next of out[at]) if (state[next] === 0) visit(next);
      state[at] = 2;
      order.unshift(at);
    };
    const entered = new Set(edges.map((edge) => edge.to));
    nodes.forEach((_, at) => state[at] === 0 && !entered.has(at) && visit(at));
    nodes.forEach((_, at) => state[at] === 0 && visit(at));
    const place = new Map(order.map((at, i) => [at, i]));
    for (const at of order) {
      for (const next of out[at]) {
        if (place.get(next) > place.get(at)) column[next] = Math.max(column[next], column[at] + 1);
      }
    }
    return column;
  }

  function short(text) {
    const letters = [...text];
    return letters.length > 20 ? `${letters.slice(0, 19).join("")}…` : text;
  }

  function picture(graph) {
    const [WIDTH, HEIGHT, ACROSS, DOWN, EDGE] = [156, 28, 244, 42, 12];
    const columns = columnsOf(graph.nodes, graph.edges);
    const rows = [];
    const places = graph.nodes.map((_, at) => {
      const row = (rows[columns[at]] = (rows[columns[at]] ?? 0) + 1);
      return { x: EDGE + columns[at] * ACROSS, y: EDGE + (row - 1) * DOWN };
    });
    // Short columns stand in the middle of the tall ones.
    const tallest = Math.max(...rows.map((it) => it ?? 0));
    places.forEach((place, at) => (place.y += ((tallest - rows[columns[at]]) * DOWN) / 2));
    const backs = graph.edges.filter((it) => columns[it.to] <= columns[it.from]).length;
    const width = 2 * EDGE + (rows.length - 1) * ACROSS + WIDTH + (backs > 0 ? 40 : 0);
    const bottom = EDGE + tallest * DOWN;
    const height = bottom + backs * 26 + EDGE;
    const told = graph.deadlocks.length > 0 ? "Wait-for graph with a deadlock, told in the list below" : "Wait-for graph, told in the list below";
    const svg = draw("svg", { class: "graph", role: "img", "aria-label": told, width, height, viewBox: `0 0 ${width} ${height}` });
    svg.append(
      draw("defs", {}, draw("marker", { id: "arrow", viewBox: "0 0 8 8", refX: "8", refY: "4", markerWidth: "9", markerHeight: "9", markerUnits: "userSpaceOnUse", orient: "auto" }, draw("path", { d: "M0 0L8 4L0 8z" }))),
    );
    let back = 0;
    for (const edge of graph.edges) {
      const [from, to] = [places[edge.from], places[edge.to]];
      const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
      let [d, x, y] = ["", (x1 + x2) / 2, (y1 + y2) / 2 - 4];
      if (columns[edge.to] > columns[edge.from]) {
        d = `M${x1} ${y1}C${x1 + 45} ${y1} ${x2 - 45} ${y2} ${x2} ${y2}`;
        x = edge.waits ? x1 + 34 : x2 - 40;
        y = (edge.waits ? y1 : y2) - 5;
      } else {
        back += 1;
        y = bottom + back * 26 - 14;
        d = `M${x1} ${y1}C${x1 + 40} ${y1} ${x1 + 30} ${y} ${x1 - 20} ${y}L${x2 + 20} ${y}C${x2 - 30} ${y} ${x2 - 40} ${y2} ${x2} ${y2}`;
        y -= 4;
      }
      const words = edge.stuck && columns[edge.to] <= columns[edge.from] ? `deadlock: ${edge.label}` : edge.label;
      svg.append(
        draw("path", { d, class: edge.waits ? "waits" : "held", "data-stuck": edge.stuck || null, "marker-end": "url(#arrow)" }),
        draw("text", { x, y, class: "label", "text-anchor": "middle", "data-stuck": edge.stuck || null }, words),
      );
    }
    graph.nodes.forEach((node, at) => {
      const { x, y } = places[at];
      svg.append(
        draw(
          "g",
          { "data-kind": node.kind, "data-stuck": node.stuck || null },
          draw("title", {}, node.label),
          draw("rect", { x, y, width: WIDTH, height: HEIGHT, rx: node.kind === "lock" ? 0 : 12 }),
          draw("text", { x: x + WIDTH / 2, y: y + HEIGHT / 2 + 4.5, "text-anchor": "middle" }, short(node.label)),
        ),
      );
    });
    return svg;
  }

  function showGraph(graph) {
    const section = byId("graph");
    section.hidden = graph.nodes.length === 0;
    const lines = graph.deadlocks.map((it) => ({ stuck: true, text: `Deadlock: ${it.text}. None of them can go on.` }));
    lines.push(...graph.sentences.map((text) => ({ stuck: false, text })));
    if (graph.more > 0) lines.push({ stuck: false, text: `and ${graph.more} more locks that somebody waits for` });
    keep(byId("graph-list"), lines.map((it, at) => ({ ...it, at })), (it) => it.at, () => make("li"), (item, line) => {
      say(item, line.text);
      mark(item, "data-stuck", line.stuck || null);
    });
    const drawn = JSON.stringify([graph.nodes, graph.edges]);
    if (section.drawn === drawn || section.hidden) return;
    section.drawn = drawn;
    byId("graph-picture").replaceChildren(picture(graph));
  }

  // ---- Events ----

  function takeEvents({ entries }) {
    const fresh = entries.filter((it) => it.position > known.lastEvent);
    if (fresh.length === 0) return;
    const last = fresh.at(-1).position;
    if (known.lastEvent > 0) known.missed += last - known.lastEvent - fresh.length;
    known.lastEvent = last;
    fresh.forEach((it) => known.events.set(it.position, it));
    for (const important of [true, false]) {
      const kind = [...known.events.values()].filter((it) => it.important === important);
      kind.slice(0, Math.max(0, kind.length - EVENTS)).forEach((it) => known.events.delete(it.position));
    }
    showEvents();
  }

  function showEvents() {
    const all = [...known.events.values()].reverse();
    const said = (known.state?.said ?? []).map((it) => ({
      position: `said ${it.at} ${it.name} ${it.command}`,
      at: it.at,
      name: it.group ? `${it.group}: ${it.name}` : it.name,
      text: `${it.who} gave the command ${it.command.replaceAll("_", " ")}: ${it.from} -> ${it.to}`,
      command: true,
    }));
    const transitions = [...all.filter((it) => it.important), ...said].sort((a, b) => b.at - a.at);
    const list = (body, lines) => keep(body, lines, (it) => it.position, newEvent, () => {});
    list(byId("transitions"), transitions);
    list(byId("calls"), all.filter((it) => !it.important));
    byId("no-transitions").hidden = transitions.length > 0;
    const missed = byId("missed");
    missed.hidden = known.missed === 0;
    say(missed, `${number(known.missed)} events went by too fast to be shown.`);
  }

  function newEvent(event) {
    const where = event.pattern ? `${event.name} (${event.pattern.replaceAll("_", " ")})` : event.name;
    return make("tr", { "data-command": event.command }, make("td", {}, clock(event.at)), make("td", {}, where), make("td", {}, event.text));
  }

  // ---- Settings ----

  function showSettings(all) {
    known.configs = new Map(all.map((it) => [curveKey(it.table, it.row), Object.fromEntries(it.settings.map((line) => [line.setting, JSON.parse(line.json)]))]));
    const titles = new Map(known.state.tables.map((it) => [it.id, it.title]));
    const list = all.map((it) => ({ ...it, title: titles.get(it.table) ?? it.table }));
    keep(byId("settings"), list, (it) => curveKey(it.table, it.row), () => make("details", {}, make("summary"), make("table", {}, make("caption", { class: "visually-hidden" }), make("tbody"))), (details, it) => {
      const changed = it.settings.filter((line) => line.default !== null).length;
      say(details.querySelector("summary"), `${it.row} (${it.title.toLowerCase()}): ${changed} of ${it.settings.length} differ from the default`);
      say(details.querySelector("caption"), `Settings of ${it.row}`);
      keep(details.querySelector("tbody"), it.settings, (line) => line.setting, () => make("tr", {}, make("th", { scope: "row" }), make("td"), make("td", { class: "quiet" })), (row, line) => {
        say(row.children[0], line.setting);
        say(row.children[1], line.value);
        say(row.children[2], line.default === null ? "" : `default: ${line.default}`);
        mark(row, "data-changed", line.default !== null ? "" : null);
      });
    });
  }

  // ---- Commands ----

  const EFFECTS = {
    force_open: "Refuses every call until somebody closes or resets it.",
    force_close: "Closes it now. It opens again by its own rules.",
    disable: "Lets every call through and counts nothing, until somebody closes or resets it.",
    metrics_only: "Lets every call through and reports what it would have done, until somebody closes or resets it.",
    reset: "Forgets what was counted. A circuit closes; quotas are full again.",
    capacity: "Changes how many permits there are, now. Who holds one keeps it.",
    config: "These settings are in force. What you change is changed now, and the rest stays as it is. A time is \"250ms\" or \"1m30s\", and what is off is \"none\".",
    arm: "Calls meet faults on purpose, for so long.",
    disarm: "No more faults.",
  };
  // What a command asks for beside its name: a field, its label, and what stands in it first.
  const NUMBERS = {
    capacity: { field: "permits", label: "Permits", first: "", most: null },
    arm: { field: "seconds", label: "Seconds, at most 3600", first: "60", most: 3600 },
  };
  const dialog = { target: null, before: {} };

  function commandButton(table, name) {
    const button = make("button", { type: "button", class: "command", "aria-label": `Command to ${name}` }, "Command…");
    button.addEventListener("click", () => openDialog(table, name));
    return button;
  }

  function openDialog(table, name) {
    dialog.target = { pattern: table.pattern, name, group: table.group };
    dialog.before = known.configs.get(curveKey(table.id, name)) ?? {};
    say(byId("dialog-title"), `Command to ${name}`);
    byId("dialog-command").replaceChildren(...table.commands.map((it) => make("option", { value: it }, it.replaceAll("_", " "))));
    byId("dialog-config").value = JSON.stringify(dialog.before, null, 2);
    say(byId("dialog-answer"), "");
    chooseCommand();
    byId("dialog").showModal();
  }

  function chooseCommand() {
    const command = byId("dialog-command").value;
    say(byId("dialog-help"), EFFECTS[command] ?? "");
    const number = NUMBERS[command];
    byId("dialog-number-line").hidden = !number;
    if (number) {
      say(byId("dialog-number-label"), number.label);
      byId("dialog-number").value = number.first;
      mark(byId("dialog-number"), "max", number.most);
    }
    byId("dialog-config-line").hidden = command !== "config";
  }

  // Only what differs: somebody else may have changed the rest meanwhile.
  function changed(from, to) {
    if (to === null || typeof to !== "object" || Array.isArray(to)) return to;
    return Object.fromEntries(Object.entries(to).filter(([key, value]) => JSON.stringify(value) !== JSON.stringify(from[key])));
  }

  async function sendCommand() {
    const command = { ...dialog.target, command: byId("dialog-command").value };
    const number = NUMBERS[command.command];
    if (number) command[number.field] = Number(byId("dialog-number").value);
    if (command.command === "config") {
      try {
        command.config = changed(dialog.before, JSON.parse(byId("dialog-config").value));
      } catch (error) {
        return `This is not JSON: ${error.message}`;
      }
    }
    try {
      const response = await fetch(new URL("api/command", base), {
        method: "POST",
        headers: { "content-type": "application/json", "x-bulwark-command": "1" },
        body: JSON.stringify(command),
        signal: AbortSignal.timeout(30000),
      });
      const answer = await response.json();
      return response.ok ? null : answer.error.message;
    } catch (error) {
      return `The command did not arrive, or its answer did not: ${error.message}`;
    }
  }

  byId("dialog-command").addEventListener("change", chooseCommand);
  byId("dialog-cancel").addEventListener("click", () => byId("dialog").close());
  byId("dialog-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const send = byId("dialog-send");
    send.disabled = true;
    const wrong = await sendCommand();
    send.disabled = false;
    say(byId("dialog-answer"), wrong ?? "");
    if (wrong === null) byId("dialog").close();
  });

  // ---- The connection ----

  function forget() {
    known.curves.clear();
    known.events.clear();
    known.lastEvent = 0;
    known.missed = 0;
    known.sample = -1;
    known.settingsVersion = null;
  }

  function takeState(state) {
    if (known.epoch !== null && known.epoch !== state.epoch) {
      forget();
      const notice = byId("notice");
      notice.hidden = false;
      say(notice, `The server has restarted: counts and curves begin anew. Noticed at ${clock(Date.now())}.`);
    }
    known.epoch = state.epoch;
    known.state = state;
    known.heard = Date.now();
    known.lostSince = null;
    remember(state);
    say(byId("title"), state.title);
    document.title = `${state.problems.length > 0 ? `(${state.problems.length + state.more_problems}) ` : ""}${state.title}`;
    const headline = byId("headline");
    say(headline, state.headline);
    mark(headline, "data-level", state.level);
    showProblems(state);
    showGraph(state.graph);
    keep(byId("tables"), state.tables, (it) => `${it.id} ${state.commands} ${it.columns.length}`, newTable, showTable);
    showEvents();
    const minutes = `Curves are the last ${SAMPLES / 60} minutes, sampled once a second while somebody reads this page.`;
    say(byId("footer"), `${minutes} Watched for ${time(state.up_seconds)}.`);
    if (state.settings_version !== known.settingsVersion) {
      const wanted = state.settings_version;
      const first = known.settingsVersion === null;
      known.settingsVersion = wanted;
      if (!first) load().then((it) => showSettings(it.settings)).catch(() => (known.settingsVersion = ""));
    }
    showConnection();
  }

  function showConnection() {
    const state = known.lostSince !== null ? "lost" : known.heard > 0 ? "live" : "connecting";
    mark(byId("connection"), "data-state", state);
    document.body.classList.toggle("stale", state === "lost");
    const since = known.lostSince === null ? 0 : Math.round((Date.now() - known.lostSince) / 1000);
    const last = known.heard > 0 ? `Last state of ${clock(known.heard)}.` : "No state yet.";
    const words = { lost: `Disconnected since ${since} s. ${last} Trying again.`, live: `Live, ${clock(known.heard)}`, connecting: "Connecting" };
    say(byId("connection-text"), words[state]);
  }

  async function load() {
    // A connection that is dead without a word must not be waited for.
    const response = await fetch(new URL("api/snapshot", base), { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!response.ok) throw new Error(`the server answers ${response.status}`);
    return response.json();
  }

  let source = null;
  let retry = null;

  function lose() {
    source?.close();
    source = null;
    known.lostSince ??= Date.now();
    showConnection();
    clearTimeout(retry);
    retry = setTimeout(connect, 1000);
  }

  async function connect() {
    try {
      const all = await load();
      takeState(all.state);
      known.curves = new Map(all.history.map((it) => [curveKey(it.table, it.row), it.points]));
      takeEvents(all.events);
      showSettings(all.settings);
    } catch {
      return lose();
    }
    source = new EventSource(new URL("api/events", base));
    source.addEventListener("state", (event) => takeState(JSON.parse(event.data)));
    source.addEventListener("events", (event) => takeEvents(JSON.parse(event.data)));
    source.addEventListener("error", lose);
  }

  // A connection can be dead without a word: then states stop coming.
  setInterval(() => {
    const silence = (Date.now() - known.heard) / 1000;
    if (source !== null && silence > 10 + 3 * (known.state?.next_seconds ?? 0)) lose();
    showConnection();
  }, 1000);

  connect();
})();

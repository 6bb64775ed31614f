// The tables below the timeline.

/** Rows that a table shows until it is asked for all. */
const ROWS = 40;

/** A table whose columns are `{ title, left, key(row), cell(row) }`: those with a key sort by it. */
class SortedTable {
  constructor(table, columns, rows, sortBy) {
    this.columns = columns;
    this.rows = rows;
    this.body = element("tbody");
    this.limit = ROWS;
    const head = element("tr", {}, ...columns.map((column, index) => this.head(column, index)));
    table.append(element("thead", {}, head), this.body);
    this.heads = [...head.children];
    this.sort(sortBy);
  }

  head({ title, left, key }, index) {
    const made = element("th", { scope: "col", className: left ? "left" : "" });
    if (key) {
      const button = element("button", { type: "button" }, title);
      button.addEventListener("click", () => this.sort(index));
      made.append(button);
    } else made.append(title);
    return made;
  }

  /** Sorts by a column: text ascending, numbers descending. */
  sort(index) {
    const { key, left } = this.columns[index];
    this.rows.sort((a, b) => (left ? String(key(a)).localeCompare(String(key(b))) : key(b) - key(a)));
    this.heads.forEach((head) => head.removeAttribute("aria-sort"));
    this.heads[index].setAttribute("aria-sort", left ? "ascending" : "descending");
    this.order = index;
    const shown = this.rows.slice(0, this.limit).map((row) => this.row(row));
    if (this.rows.length > this.limit) shown.push(this.rest());
    this.body.replaceChildren(...shown);
  }

  /** A row that leads to those that are not shown. */
  rest() {
    const button = element("button", { type: "button" }, `show all ${number(this.rows.length)} rows`);
    button.addEventListener("click", () => {
      this.limit = Infinity;
      this.sort(this.order);
    });
    return element("tr", {}, element("td", { className: "left", colSpan: this.columns.length }, button));
  }

  row(row) {
    row.element = element("tr", {}, ...this.columns.map((column) => {
      const cell = element("td", { className: [column.left && "left", column.style].filter(Boolean).join(" ") });
      cell.append(column.cell(row));
      return cell;
    }));
    return row.element;
  }
}

/** A bar as long as the share, in the colour of a kind. */
function bar(share, kind) {
  const made = element("span", { className: "share" }, element("i"));
  made.firstChild.style.width = `${100 * share}%`;
  made.firstChild.style.setProperty("--swatch", `var(--${kind})`);
  return made;
}

function percent(share) {
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

class ClassTable {
  constructor(view) {
    this.view = view;
    const { classes, exits, end, firstEntry } = view.trace;
    const seconds = Math.max(end - firstEntry, 1) / 1e9;
    const time = (title, column) => {
      return { title, key: (row) => classes[column][row.cls], cell: (row) => duration(classes[column][row.cls]) };
    };
    const columns = [
      { title: "kind", left: true, key: (row) => row.kind, cell: (row) => this.kind(row) },
      { title: "register", left: true, key: (row) => row.name, cell: (row) => this.link(row) },
      { title: "exits", key: (row) => row.count, cell: (row) => number(row.count) },
      { title: "share", key: (row) => row.count, cell: (row) => percent(row.count / exits) },
      { title: "", left: true, cell: (row) => bar(row.count / exits, row.kind) },
      { title: "in sight", cell: (row) => row.inSight = element("span") },
      { title: "a second", key: (row) => row.count, cell: (row) => rate(row.count / seconds) },
      time("guest before", "guest_ns"), time("answers", "host_ns"), time("p50", "p50_ns"), time("p99", "p99_ns"),
      time("longest", "max_ns"),
    ];
    this.rows = classes.kind.map((kind, cls) => {
      return { cls, kind: view.trace.kinds[kind], name: view.trace.nameOf(cls), count: classes.count[cls] };
    });
    this.table = new SortedTable(document.getElementById("classes"), columns, this.rows, 2);
    document.getElementById("classes").addEventListener("click", () => this.draw());
    view.addEventListener("change", () => this.draw());
  }

  kind(row) {
    const title = this.view.trace.explanationOf(row.cls);
    return element("span", { title }, swatch(row.kind), row.kind);
  }

  link(row) {
    const button = element("button", { type: "button", title: "Show the next one" }, row.name);
    button.addEventListener("click", () => this.view.find((track, i) => track.class[i] === row.cls));
    return button;
  }

  draw() {
    const { view } = this;
    const counts = new Float64Array(this.rows.length);
    for (const track of view.tracks) {
      for (let i = track.firstFrom(view.from - track.longest); i < track.size && track.at[i] < view.to; i++) {
        if (track.end[i] >= view.from) counts[track.class[i]] += track.count[i];
      }
    }
    for (const row of this.rows.filter((row) => row.element)) {
      row.inSight.textContent = number(view.visible[row.cls] ? counts[row.cls] : 0);
      row.element.classList.toggle("off", !view.visible[row.cls]);
    }
  }
}

/** Instructions shown; the rest is rarer. */
const HOT = 20;

class InstructionTable {
  constructor(view) {
    const { instructions, exits, classes, kinds } = view.trace;
    const { rip, text, symbol, count, host_ns: host, unlisted } = instructions;
    const order = rip.map((_, i) => i).sort((a, b) => count[b] - count[a]).slice(0, HOT);
    const rows = order.map((i) => ({ i, kind: kinds[classes.kind[instructions.class[i]]] }));
    const notes = [`The first ${rows.length} of ${number(rip.length)} that left the guest.`];
    if (unlisted > 0) notes.push(`${number(unlisted)} exits are of instructions beyond these.`);
    document.getElementById("hot-note").textContent = notes.join(" ");
    const link = ({ i }) => {
      const button = element("button", { type: "button", title: "Show its next exit" }, rip[i]);
      button.addEventListener("click", () => view.find((track, position) => track.instruction[position] === i));
      return button;
    };
    const code = "code";
    const columns = [
      { title: "address", left: true, style: code, cell: link },
      { title: "instruction", left: true, style: code, key: ({ i }) => text[i], cell: ({ i }) => text[i] || "not known" },
      { title: "symbol", left: true, style: code, key: ({ i }) => symbol[i], cell: ({ i }) => symbol[i] },
      { title: "causes", left: true, key: (row) => row.kind, cell: ({ kind }) => element("span", {}, swatch(kind), kind) },
      { title: "exits", key: ({ i }) => count[i], cell: ({ i }) => number(count[i]) },
      { title: "share", key: ({ i }) => count[i], cell: ({ i }) => percent(count[i] / exits) },
      { title: "", left: true, cell: ({ i, kind }) => bar(count[i] / exits, kind) },
      { title: "answers", key: ({ i }) => host[i], cell: ({ i }) => duration(host[i]) },
    ];
    new SortedTable(document.getElementById("instructions"), columns, rows, 4);
  }
}

function milestoneTable(view) {
  let before = 0;
  const rows = view.trace.milestones.map(([name, ns]) => {
    const row = { name, ns, since: ns - before };
    before = ns;
    return row;
  });
  const link = ({ name, ns }) => {
    const button = element("button", { type: "button", title: "Show it in the timeline" }, name);
    button.addEventListener("click", () => view.show(ns - view.span / 2, ns + view.span / 2));
    return button;
  };
  const columns = [
    { title: "milestone", left: true, cell: link },
    { title: "at", cell: ({ ns }) => moment(ns, 1000) },
    { title: "after the one before", cell: ({ since }) => duration(since) },
  ];
  const table = document.getElementById("milestones");
  const head = element("tr", {}, ...columns.map(({ title, left }) => element("th", { className: left ? "left" : "" }, title)));
  const cells = (row) => columns.map(({ left, cell }) => element("td", { className: left ? "left" : "" }, cell(row)));
  table.append(element("thead", {}, head), element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row)))));
}

// Puts the page together.

function figures(trace) {
  const { classes } = trace;
  const sum = (column) => column.reduce((a, b) => a + b, 0);
  const [guest, host] = [sum(classes.guest_ns), sum(classes.host_ns)];
  const running = Math.max(trace.end - trace.firstEntry, 1);
  const share = (part) => `${((100 * part) / Math.max(guest + host, 1)).toFixed(1)} %`;
  return [
    ["exits", number(trace.exits)],
    ["exits a second", rate((trace.exits * 1e9) / running)],
    ["from start to end", duration(trace.ended_ns)],
    ["to the first entry", duration(trace.firstEntry)],
    ["in the guest", share(guest)],
    ["answering exits", share(host)],
    ["lines on the console", number(trace.console.text.length + trace.console.lost_lines)],
  ];
}

function describe(id, pairs) {
  const pair = ([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value));
  document.getElementById(id).append(...pairs.map(pair));
}

function chips(view, filter, labels, hint = () => "") {
  const place = document.getElementById(`filter-${filter}`);
  const buttons = view.all[filter].map((value) => {
    const button = element("button", { type: "button", className: "chip", title: hint(value) }, ...labels(value));
    button.addEventListener("click", () => view.toggle(filter, value));
    place.append(button);
    return [button, value];
  });
  const draw = () => buttons.forEach(([button, value]) => button.setAttribute("aria-pressed", view.shown[filter].has(value)));
  view.addEventListener("change", draw);
  draw();
}

function start() {
  const trace = new Trace(JSON.parse(document.getElementById("trace").textContent));
  const view = new View(trace);
  const facts = trace.facts.filter(([, value]) => value !== "");
  const image = facts.find(([name]) => name === "image")?.[1] ?? "";
  document.title = `${image}: traced by Hostel`;
  document.getElementById("image").textContent = image;
  document.getElementById("reason").textContent = trace.reason;
  describe("figures", figures(trace));
  describe("facts", facts.filter(([name]) => name !== "image"));
  if (trace.dropped > 0) {
    const warning = document.getElementById("dropped");
    warning.hidden = false;
    warning.textContent = `${number(trace.dropped)} exits are missing here: the trace fell behind.`;
  }
  const counts = (column, value) => {
    const { classes } = trace;
    return number(classes.count.reduce((sum, count, i) => (column[i] === value ? sum + count : sum), 0));
  };
  const small = (text) => element("small", {}, text);
  chips(view, "kind", (kind) => {
    return [swatch(trace.kinds[kind]), trace.kinds[kind], small(counts(trace.classes.kind, kind))];
  }, (kind) => trace.explanations[kind].summary);
  chips(view, "device", (device) => [device || "none", small(counts(trace.classes.device, device))]);
  chips(view, "vcpu", (vcpu) => [String(vcpu)]);
  new Timeline(view);
  new ChosenExit(view);
  new ConsolePane(view);
  new ClassTable(view);
  new InstructionTable(view);
  explanations(view);
  milestoneTable(view);
  view.showGuest();
  view.step(1);
}

start();

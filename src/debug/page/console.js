// The console beside the timeline. Only the lines in sight are elements of the page.

/** Height of a line in pixels, as the style sheet has it. */
const LINE = 20;

/** The first of `times`, which ascend, from `ns` on; one earlier, because that line may reach into it. */
function lineAt(times, ns) {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < ns) low = middle + 1;
    else high = middle;
  }
  return Math.max(low - 1, 0);
}

/** The last line that began at `ns` or before; `null` where there is none. */
function lineBefore(times, ns) {
  if (times.length === 0 || times[0] > ns) return null;
  const line = lineAt(times, ns);
  return line + 1 < times.length && times[line + 1] <= ns ? line + 1 : line;
}

class ConsolePane {
  constructor(view) {
    this.view = view;
    this.lines = view.trace.console;
    this.pane = document.getElementById("lines");
    this.followed = null;
    const { length } = this.lines.text;
    this.height = document.getElementById("lines-height");
    this.height.style.height = `${length * LINE}px`;
    const notes = [`${number(length)} lines`];
    if (this.lines.lost_lines > 0) notes.push(`${number(this.lines.lost_lines)} earlier ones are left out`);
    document.getElementById("console-note").textContent = notes.join(", ");
    this.pane.addEventListener("scroll", () => this.draw());
    this.pane.addEventListener("keydown", (event) => this.key(event));
    // Lines are made anew with each frame, so the pane listens for them.
    this.pane.addEventListener("click", (event) => this.lineUnder(event) !== null && this.choose(this.lineUnder(event)));
    this.pane.addEventListener("pointermove", (event) => this.point(this.lineUnder(event)));
    this.pane.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.pane);
    view.addEventListener("change", () => this.follow());
  }

  key(event) {
    const page = Math.floor(this.pane.clientHeight / LINE);
    const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || this.lines.text.length === 0) return;
    event.preventDefault();
    this.choose(Math.min(Math.max((this.view.line ?? -1) + step, 0), this.lines.text.length - 1));
  }

  lineUnder(event) {
    const line = Math.floor((event.clientY - this.pane.getBoundingClientRect().top - 1 + this.pane.scrollTop) / LINE);
    return line >= 0 && line < this.lines.text.length ? line : null;
  }

  /** Has the timeline show when the line under the pointer was written. */
  point(line) {
    if (line === this.view.pointedLine) return;
    this.view.pointedLine = line;
    this.view.changed();
  }

  choose(line) {
    this.view.line = line;
    this.view.reveal(this.lines.from_ns[line], this.lines.to_ns[line]);
  }

  /** Scrolls to the line that was chosen, wherever that was. */
  follow() {
    const { line } = this.view;
    if (line !== this.followed && line !== null) {
      const [top, height] = [line * LINE, this.pane.clientHeight];
      if (top < this.pane.scrollTop) this.pane.scrollTop = top - LINE;
      else if (top + LINE > this.pane.scrollTop + height) this.pane.scrollTop = top - height + 2 * LINE;
    }
    this.followed = line;
    this.draw();
  }

  draw() {
    const { view, pane, lines } = this;
    const first = Math.max(Math.floor(pane.scrollTop / LINE) - 5, 0);
    const last = Math.min(Math.ceil((pane.scrollTop + pane.clientHeight) / LINE) + 5, lines.text.length);
    const shown = [];
    for (let line = first; line < last; line++) shown.push(this.line(line));
    pane.replaceChildren(this.height, ...shown);
    if (view.line === null) pane.removeAttribute("aria-activedescendant");
    else pane.setAttribute("aria-activedescendant", `line-${view.line}`);
  }

  line(line) {
    const { view, lines } = this;
    const time = element("time", {}, moment(lines.from_ns[line], 1000));
    const made = element("div", { className: "line", id: `line-${line}` }, time, element("span", {}, lines.text[line]));
    made.classList.toggle("outside", lines.to_ns[line] < view.from || lines.from_ns[line] > view.to);
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", String(view.line === line));
    made.style.top = `${line * LINE}px`;
    return made;
  }
}

// The timeline: axis, milestones, a track a vCPU, the console's lines.
// A pixel column with many exits shows how many (logarithmically) and of which kinds; where there is room, an exit is a box
// as long as its answer took, and the ground between boxes is guest code.

const AXIS = 22, FLAGS = 20, GAP = 6, CONSOLE = 20;
const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif';
/** Boxes are at least so wide, in pixels; narrower exits are counted by column. */
const BOX = 3;

class Timeline {
  constructor(view) {
    this.view = view;
    this.trace = view.trace;
    this.canvas = document.getElementById("tracks");
    this.range = document.getElementById("range");
    this.pointer = null;
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => { this.colours = null; view.changed(); });
    new ResizeObserver(() => view.changed()).observe(this.canvas.parentElement);
    view.addEventListener("change", () => this.draw());
    this.overview = new Overview(this);
    new Gestures(this);
    const { width_ns: width, at_ns: marks } = this.trace.marks;
    if (width > 0) {
      const note = document.getElementById("aggregated");
      note.hidden = false;
      note.textContent = `${number(this.trace.exits)} exits are drawn as ${number(marks.length)} marks: exits of one vCPU, kind `
        + `and register that begin within the same ${duration(width)} share a mark. The tables count each exit.`;
    }
  }

  get gutter() {
    return this.width < 500 ? 34 : 58;
  }

  x(ns) {
    return this.gutter + (ns - this.view.from) * this.scale;
  }

  ns(x) {
    return this.view.from + (x - this.gutter) / this.scale;
  }

  /** Where the track is that stands `index` down, and how high it is. */
  lane(index) {
    return AXIS + FLAGS + index * (this.laneHeight + GAP);
  }

  get laneHeight() {
    return Math.min(Math.max(240 / this.view.tracks.length, 26), 56);
  }

  get consoleTop() {
    return this.lane(this.view.tracks.length);
  }

  /** The colour behind a custom property. */
  colour(name) {
    this.colours ??= new Map();
    if (!this.colours.has(name)) {
      this.colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
    }
    return this.colours.get(name);
  }

  prepare(canvas, height) {
    const ratio = devicePixelRatio || 1;
    this.width = canvas.parentElement.clientWidth;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = FONT;
    pen.textBaseline = "middle";
    pen.fillStyle = this.colour("page");
    pen.fillRect(0, 0, this.width, height);
    return pen;
  }

  draw() {
    const { view } = this;
    this.height = this.consoleTop + CONSOLE + 6;
    const pen = this.prepare(this.canvas, this.height);
    this.scale = (this.width - this.gutter) / view.span;
    this.inSight = 0;
    pen.save();
    pen.beginPath();
    pen.rect(this.gutter, 0, this.width - this.gutter, this.height);
    pen.clip();
    view.tracks.forEach((track, index) => this.drawTrack(pen, track, this.lane(index)));
    this.drawConsole(pen);
    this.drawAxis(pen);
    this.drawMilestones(pen);
    this.drawPointers(pen);
    pen.restore();
    pen.fillStyle = this.colour("soft");
    view.tracks.forEach((track, index) => {
      pen.fillText(`${this.gutter > 40 ? "vCPU " : ""}${track.vcpu}`, 8, this.lane(index) + this.laneHeight / 2);
    });
    pen.fillText(this.gutter > 40 ? "console" : "tty", 8, this.consoleTop + CONSOLE / 2);
    const [from, to] = [view.from, view.to].map((ns) => moment(ns, view.span / 1000));
    this.range.textContent = `${from} to ${to}: ${duration(view.span)}, ${number(this.inSight)} exits`;
    this.overview.draw();
  }

  /** Counts narrow marks by pixel column and kind, and draws the others as boxes. */
  drawTrack(pen, track, top) {
    const { view, trace, laneHeight: height } = this;
    const kinds = trace.kinds.length;
    const columns = new Float32Array(Math.ceil(this.width + 1) * kinds);
    const totals = new Float32Array(Math.ceil(this.width + 1));
    const boxes = [];
    const last = track.size - 1;
    if (last >= 0) {
      const [begin, end] = [this.x(track.at[0] - track.guest[0]), this.x(track.end[last])];
      pen.fillStyle = this.colour("guest");
      pen.fillRect(Math.max(begin, 0), top, Math.min(end, this.width) - Math.max(begin, 0), height);
    }
    for (let i = track.firstFrom(view.from - track.longest); i <= last && track.at[i] < view.to; i++) {
      if (track.end[i] < view.from || !view.visible[track.class[i]]) continue;
      this.inSight += track.count[i];
      const [left, right] = [Math.max(this.x(track.at[i]), 0), Math.min(this.x(track.end[i]), this.width)];
      if (track.count[i] === 1 && right - left >= BOX) {
        boxes.push([i, left, right]);
        continue;
      }
      const pixels = Math.floor(right) - Math.floor(left) + 1;
      for (let x = Math.floor(left); x <= right; x++) {
        columns[x * kinds + trace.classes.kind[track.class[i]]] += track.count[i] / pixels;
        totals[x] += track.count[i] / pixels;
      }
    }
    const most = Math.log1p(totals.reduce((a, b) => Math.max(a, b), 0));
    for (let x = 0; x < totals.length; x++) {
      if (totals[x] === 0) continue;
      // Where hardly any share a column, all are as high as boxes.
      const high = most < Math.log1p(3) ? height : height * (0.3 + (0.7 * Math.log1p(totals[x])) / most);
      let bottom = top + height;
      for (let kind = 0; kind < kinds; kind++) {
        const part = (high * columns[x * kinds + kind]) / totals[x];
        if (part === 0) continue;
        pen.fillStyle = this.colour(trace.kinds[kind]);
        pen.fillRect(x, bottom - part, 1, part);
        bottom -= part;
      }
    }
    for (const [i, left, right] of boxes) this.drawBox(pen, track, i, left, right, top);
    if (boxes.length < 200) this.labelGuest(pen, track, top);
  }

  drawBox(pen, track, i, left, right, top) {
    pen.fillStyle = this.colour(this.trace.kindOf(track.class[i]));
    pen.fillRect(left, top, right - left - 0.5, this.laneHeight);
    this.label(pen, this.trace.nameOf(track.class[i]), Math.max(left, this.gutter), right, top + this.laneHeight / 2, "card");
  }

  labelGuest(pen, track, top) {
    const { view } = this;
    for (let i = Math.max(track.firstFrom(view.from), 0); i < track.size; i++) {
      const start = track.at[i] - track.guest[i];
      if (start > view.to) break;
      if (track.count[i] > 1) continue;
      const [left, right] = [Math.max(this.x(start), this.gutter), Math.min(this.x(track.at[i]), this.width)];
      this.label(pen, `guest ${duration(track.guest[i])}`, left, right, top + this.laneHeight / 2, "guest-text");
    }
  }

  /** Writes where there is room for all of it. */
  label(pen, text, left, right, middle, colour) {
    if (right - left < 30 || pen.measureText(text).width > right - left - 8) return;
    pen.fillStyle = this.colour(colour);
    pen.fillText(text, left + 4, middle);
  }

  drawAxis(pen) {
    const { view } = this;
    const least = (view.span * 96) / (this.width - this.gutter);
    const power = 10 ** Math.floor(Math.log10(least));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least);
    for (let ns = Math.ceil(view.from / step) * step; ns <= view.to; ns += step) {
      pen.fillStyle = this.colour("line");
      pen.fillRect(Math.round(this.x(ns)), AXIS - 5, 1, this.height);
      pen.fillStyle = this.colour("soft");
      const text = moment(ns, step);
      if (this.x(ns) + 8 + pen.measureText(text).width < this.width) pen.fillText(text, this.x(ns) + 4, AXIS / 2);
    }
  }

  drawMilestones(pen) {
    let free = 0;
    for (const [name, ns] of this.trace.milestones) {
      const x = this.x(ns);
      if (x < this.gutter - 1 || x > this.width + 1) continue;
      pen.fillStyle = this.colour("accent");
      for (let y = AXIS; y < this.height; y += 6) pen.fillRect(Math.round(x) - 0.5, y, 1, 3);
      const long = pen.measureText(name).width;
      const left = Math.min(x + 5, this.width - long - 4);
      if (left < free) continue;
      pen.fillStyle = this.colour("page");
      pen.fillRect(left - 3, AXIS, long + 6, FLAGS - 2);
      pen.fillStyle = this.colour("accent");
      pen.fillText(name, left, AXIS + FLAGS / 2 - 1);
      free = left + long + 8;
    }
  }

  drawConsole(pen) {
    const { from_ns: from, to_ns: to, text } = this.trace.console;
    pen.fillStyle = this.colour("card");
    pen.fillRect(this.gutter, this.consoleTop, this.width, CONSOLE);
    let drawn = -1;
    for (let i = lineAt(from, this.view.from); i < from.length && from[i] < this.view.to; i++) {
      const [left, right] = [this.x(from[i]), this.x(to[i])];
      if (right <= drawn) continue;
      drawn = Math.ceil(Math.max(right, left + 1));
      pen.fillStyle = this.colour("soft");
      pen.fillRect(left, this.consoleTop + CONSOLE - 3, Math.max(right - left, 1), 3);
      const next = i + 1 < from.length ? this.x(from[i + 1]) : this.width;
      const visibleLeft = Math.max(left, this.gutter);
      if (next - visibleLeft < 36) continue;
      pen.save();
      pen.beginPath();
      pen.rect(visibleLeft, this.consoleTop, next - visibleLeft - 4, CONSOLE);
      pen.clip();
      pen.fillStyle = this.colour("text");
      pen.fillText(text[i].slice(0, 200), visibleLeft + 2, this.consoleTop + CONSOLE / 2 - 1);
      pen.restore();
    }
  }

  /** The pointer's time, the line of the console that is looked at, the chosen exit. */
  drawPointers(pen) {
    const { view } = this;
    const line = view.pointedLine ?? view.line;
    if (line !== null) {
      const { from_ns: from, to_ns: to } = this.trace.console;
      pen.fillStyle = this.colour("window");
      const left = this.x(from[line]);
      pen.fillRect(left, AXIS, Math.max(this.x(to[line]) - left, 2), this.height);
    }
    if (view.chosen && view.tracks.includes(view.chosen.track)) {
      const { track, position } = view.chosen;
      const [left, right] = [this.x(track.at[position]), this.x(track.end[position])];
      const top = this.lane(view.tracks.indexOf(track));
      pen.strokeStyle = pen.fillStyle = this.colour("cursor");
      pen.lineWidth = 2;
      pen.strokeRect(left - 1, top - 1, Math.max(right - left, 1) + 2, this.laneHeight + 2);
    }
    if (this.pointer !== null) {
      pen.fillStyle = this.colour("text");
      pen.fillRect(Math.round(this.pointer), AXIS, 1, this.height);
    }
  }
}

// The chosen exit, with all that is known of it.

class ChosenExit {
  constructor(view) {
    this.view = view;
    this.place = document.getElementById("exit");
    this.drawn = null;
    view.addEventListener("change", () => this.draw());
  }

  /** A few lines on the mark at a point. */
  static summary(trace, { track, position, here }) {
    const cls = track.class[position];
    const value = track.value[position];
    const lines = [`${trace.kindOf(cls)} ${trace.classes.name[cls]}${value === null ? "" : ` = ${hexadecimal(value)}`}`];
    if (track.count[position] > 1) lines.push(`${number(track.count[position])} exits in this mark`);
    else lines.push(`guest ${duration(track.guest[position])}, answer ${duration(track.host[position])}`);
    const instruction = track.instruction[position];
    if (instruction >= 0) lines.push(trace.instructions.text[instruction] || trace.instructions.rip[instruction]);
    if (here > track.count[position]) lines.push(`${number(Math.round(here))} exits here: zoom in`);
    return lines;
  }

  draw() {
    const { chosen, trace } = this.view;
    if (!chosen || (this.drawn?.track === chosen.track && this.drawn.position === chosen.position)) return;
    this.drawn = chosen;
    const { track, position: i } = chosen;
    const cls = track.class[i];
    const kind = trace.kindOf(cls);
    const title = element("h3", {}, swatch(kind), `${kind} ${trace.classes.name[cls]}`);
    const list = element("dl");
    const row = (name, value, className = "") => {
      list.append(element("dt", {}, name), element("dd", { className }, value));
    };
    row("vCPU", String(track.vcpu));
    row("left the guest at", moment(track.at[i], 1));
    if (track.count[i] > 1) {
      row("exits in this mark", number(track.count[i]));
      row("first to last", duration(track.end[i] - track.at[i]));
    }
    row("guest ran before", duration(track.guest[i]));
    row("answered in", duration(track.host[i]));
    if (track.value[i] !== null) row("value", this.value(track.value[i], trace.classes.name[cls]), "code");
    const instruction = track.instruction[i];
    if (instruction >= 0) {
      const { rip, text, symbol } = trace.instructions;
      if (text[instruction]) row("instruction", text[instruction], "code");
      row("at", symbol[instruction] ? `${rip[instruction]} ${symbol[instruction]}` : rip[instruction], "code");
    }
    this.place.replaceChildren(title, element("p", { className: "note" }, trace.explanationOf(cls)), list);
  }

  /** A value, with the character that it is where registers hold characters. */
  value(value, name) {
    const isCharacter = /^(COM1 (THR|RBR)|debugcon )/.test(name) && value > 0x20 && value < 0x7f;
    return hexadecimal(value) + (isCharacter ? ` '${String.fromCharCode(value)}'` : "");
  }
}

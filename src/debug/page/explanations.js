// What each kind of exit is, why it happens, who decides and who answers.

function explanations(view) {
  const { trace } = view;
  const titles = {
    why: "why", vmx: "decided by, on Intel", svm: "decided by, on AMD", kvm: "KVM", hostel: "Hostel", files: "in the files",
    sources: "sources",
  };
  const entries = trace.usedKinds.map((kind) => {
    const explanation = trace.explanations[kind];
    const list = element("dl");
    for (const [field, title] of Object.entries(titles)) {
      const told = [explanation[field]].flat().join(", ");
      if (told) list.append(element("dt", {}, title), element("dd", {}, told));
    }
    const name = element("b", {}, swatch(trace.kinds[kind]), trace.kinds[kind]);
    return element("details", {}, element("summary", {}, name, element("span", {}, explanation.summary)), list);
  });
  document.getElementById("kinds").append(...entries);
}

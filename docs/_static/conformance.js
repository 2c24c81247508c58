// The table of docs/conformance.md: rows of CONFORMANCE that hold what is typed above each column. A field of the page's address,
// such as conformance.html#model=llama, fills in a filter.
(() => {
  const names = ["model", "method", "verdict", "check", "reason"];
  const most = 1000; // rows that are shown at once
  const body = document.querySelector("#conformance tbody");
  const head = document.querySelector("#conformance-filters");
  const count = document.querySelector("#conformance-count");
  const given = new URLSearchParams(location.hash.slice(1));
  const fields = names.map((name) => {
    const field = document.createElement("input");
    field.type = "search";
    field.setAttribute("aria-label", `filter by ${name}`);
    field.value = given.get(name) || "";
    field.addEventListener("input", show);
    head.appendChild(document.createElement("th")).appendChild(field);
    return field;
  });

  function show() {
    const wanted = fields.map((field) => field.value.trim().toLowerCase());
    const found = CONFORMANCE.filter((row) => wanted.every((text, i) => row[i].toLowerCase().includes(text)));
    body.replaceChildren(...found.slice(0, most).map(rowOf));
    const hidden = found.length > most ? `, the first ${most} are shown` : "";
    count.textContent = `${found.length} of ${CONFORMANCE.length} rows${hidden}`;
  }

  function rowOf(cells) {
    const row = document.createElement("tr");
    for (const text of cells) row.insertCell().textContent = text;
    return row;
  }

  show();
})();
